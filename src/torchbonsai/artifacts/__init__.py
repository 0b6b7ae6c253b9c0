"""Saved networks: weights without pickle, the plan, and how the dense model is built."""

from torchbonsai.artifacts.load import load
from torchbonsai.artifacts.save import save

__all__ = ["load", "save"]
