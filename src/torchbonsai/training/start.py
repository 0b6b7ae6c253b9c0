"""Starting points: untrained, pretrained (a source data set or a checkpoint, then a fresh head), trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchbonsai.core.errors import ConfigError, message
from torchbonsai.data.splits import Splits
from torchbonsai.models.build import ModelConfig, build, of_classes
from torchbonsai.training.checkpoint import load_state, load_weights, read_weights
from torchbonsai.training.config import TrainConfig
from torchbonsai.training.head import find_head, fresh_head
from torchbonsai.training.loop import fit
from torchbonsai.training.report import History

__all__ = ["checkpointed", "find_head", "fresh_head", "load_weights", "pretrained", "trained", "untrained"]


def untrained(config: ModelConfig, *, seed: int) -> nn.Module:
    """Random weights."""
    return build(config, seed=seed)


def trained(
    config: ModelConfig, splits: Splits, training: TrainConfig, *, seed: int, **hooks: Any
) -> tuple[nn.Module, History]:
    """Trained on the target's training split. hooks: `val`, `on_epoch`, `on_step`, `state`, as `fit` takes them."""
    model = build(config, seed=seed)
    return model, fit(model, splits.train, training, splits=splits, **hooks)


def pretrained(
    config: ModelConfig, source: Splits, training: TrainConfig, *, seed: int, **hooks: Any
) -> tuple[nn.Module, History]:
    """Trained on another data set, `source`, then given a fresh head of `config.classes` outputs.

    The head is fresh where the counts are the same too: the classes mean something else. hooks: as in `trained`.
    Raises ConfigError where the images of the source have another shape.
    """
    if source.in_shape != config.in_shape:
        raise ConfigError(
            message(
                f"the source's images must have the target's shape {config.in_shape}",
                f"{source.in_shape} of {source.name}",
                "a source of another size or number of channels",
                "choose another source data set",
            )
        )
    model, history = trained(of_classes(config, source.classes), source, training, seed=seed, **hooks)
    fresh_head(model, config.classes, seed, torch.zeros(1, *config.in_shape))
    return model, history


def checkpointed(config: ModelConfig, path: str | Path, *, seed: int) -> nn.Module:
    """The model with a checkpoint's weights; a fresh head where its number of classes is not `config.classes`.

    Raises DataError where the checkpoint is of another model; see `load_weights`.
    """
    tensors = read_weights(path)
    model = build(config, seed=seed)
    example = torch.zeros(1, *config.in_shape)
    fits = all(name in tensors and tensors[name].shape == t.shape for name, t in model.state_dict().items())
    weight = None if fits else tensors.get(f"{find_head(model, example)[0]}.weight")
    if weight is None or len(weight) == config.classes:
        load_state(model, tensors, Path(path).name)
        return model
    model = build(of_classes(config, len(weight)), seed=seed)
    load_state(model, tensors, Path(path).name)
    fresh_head(model, config.classes, seed, example)
    return model
