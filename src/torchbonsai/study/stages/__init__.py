"""The kinds of stages that a comparison is made of; importing this package registers them all."""

from torchbonsai.study.stages import measure, prune, start, train

__all__ = ["measure", "prune", "start", "train"]
