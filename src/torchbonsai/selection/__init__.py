"""Budgets, and how they are spent: scores -> which atoms stay."""
