"""What decides a training run, but the model and the images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torchbonsai.core.config import added_later
from torchbonsai.core.errors import ConfigError, message
from torchbonsai.data.augment import check_augment

Schedule = Literal["cosine", "step"]
Precision = Literal["float32", "bf16"]


@dataclass(frozen=True)
class TrainConfig:
    """SGD with momentum, its schedule, precision and seed.

    epochs: passes over the training split; a fraction stretches the schedule over ceil(epochs * steps an epoch)
    steps. weight_decay acts on weights, not on norms and biases; on those of depthwise convolutions where
    decay_depthwise says so. warmup_epochs: the learning rate rises linearly
    over so many epochs, at most half of the run. schedule: "cosine" falls to 0 at the end; "step" multiplies by
    `gamma` at each of `milestones`, shares of the run. augment: of "crop", "flip", "cutout". precision "bf16"
    computes through autocast; weights stay float32. channels_last: the memory layout of weights and images.
    compile: the model's forward and backward through torch.compile, anew wherever shapes change. seed: of data order,
    augmentation and dropout, not of the weights.
    """

    epochs: float
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    batch_size: int = 128
    schedule: Schedule = "cosine"
    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1
    warmup_epochs: float = 1.0
    label_smoothing: float = 0.0
    augment: tuple[str, ...] = ()
    precision: Precision = "float32"
    channels_last: bool = False
    compile: bool = False
    seed: int = 0
    decay_depthwise: bool = added_later(True)

    def __post_init__(self) -> None:
        _need(_finite(self.epochs) and self.epochs > 0, "epochs must be above 0", self.epochs)
        _need(_finite(self.lr) and self.lr > 0, "lr must be above 0", self.lr)
        _need(0 <= self.momentum < 1, "momentum must be within [0, 1)", self.momentum)
        _need(self.momentum > 0 or not self.nesterov, "nesterov needs a momentum above 0", self.momentum)
        _need(
            _finite(self.weight_decay) and self.weight_decay >= 0, "weight_decay must be at least 0", self.weight_decay
        )
        _need(self.batch_size >= 1, "batch_size must be at least 1", self.batch_size)
        _need(self.schedule in ("cosine", "step"), "schedule must be 'cosine' or 'step'", self.schedule)
        _need(
            all(0 < m < 1 for m in self.milestones), "milestones are shares of the run, within (0, 1)", self.milestones
        )
        _need(_finite(self.gamma) and self.gamma > 0, "gamma must be above 0", self.gamma)
        _need(
            _finite(self.warmup_epochs) and self.warmup_epochs >= 0, "warmup_epochs is at least 0", self.warmup_epochs
        )
        _need(0 <= self.label_smoothing < 1, "label_smoothing must be within [0, 1)", self.label_smoothing)
        _need(self.precision in ("float32", "bf16"), "precision must be 'float32' or 'bf16'", self.precision)
        check_augment(self.augment)


def _finite(value: float) -> bool:
    return math.isfinite(value)


def _need(holds: bool, must: str, got: object) -> None:
    if not holds:
        raise ConfigError(message(must, repr(got), "a typing error", "correct the training settings"))
