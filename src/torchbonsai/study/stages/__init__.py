"""The kinds of stages that studies are made of; importing this package registers them all."""

from torchbonsai.study.stages import fastest, measure, prune, renew, start, train

__all__ = ["fastest", "measure", "prune", "renew", "start", "train"]
