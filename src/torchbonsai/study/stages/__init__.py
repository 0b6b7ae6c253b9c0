"""The kinds of stages that studies are made of; importing this package registers them all."""

from torchbonsai.study.stages import fastest, gates, measure, prune, renew, snapshots, start, train

__all__ = ["fastest", "gates", "measure", "prune", "renew", "snapshots", "start", "train"]
