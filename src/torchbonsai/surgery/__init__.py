"""Cutting: a plan is data, proved before it is applied and verified after."""
