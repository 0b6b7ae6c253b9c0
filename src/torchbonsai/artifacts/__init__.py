"""Saved networks: weights without pickle, the plan, how the dense model is built; and export to ONNX and .pt2."""

from torchbonsai.artifacts.export import export
from torchbonsai.artifacts.load import load
from torchbonsai.artifacts.save import save

__all__ = ["export", "load", "save"]
