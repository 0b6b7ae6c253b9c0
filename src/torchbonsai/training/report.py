"""What a training run tells: after every step, after every epoch, at the end."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True, eq=False)
class StepReport:
    """step: 1-based, of `total`. optimizer: the one at work, so that a pruner can follow the training."""

    step: int
    total: int
    lr: float
    optimizer: torch.optim.Optimizer


@dataclass(frozen=True)
class EpochReport:
    """epoch: 1-based; the last one may be a part. samples: images trained on in it. loss, train_accuracy: means over
    them, as they were trained on. val_accuracy: at its end, where a validation split was given. seconds: training
    only, evaluation left out."""

    epoch: int
    steps: int
    samples: int
    lr: float
    loss: float
    train_accuracy: float
    val_accuracy: float | None
    seconds: float

    def evaluated(self, val_accuracy: float) -> EpochReport:
        """The same report with a validation accuracy."""
        return replace(self, val_accuracy=val_accuracy)


@dataclass(frozen=True)
class History:
    """A whole run: its epochs, and the sums that fairness is counted in."""

    epochs: tuple[EpochReport, ...]

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return sum(e.steps for e in self.epochs)

    @property
    def samples(self) -> int:
        """Images that went forward and backward, each as often as it did."""
        return sum(e.samples for e in self.epochs)

    @property
    def seconds(self) -> float:
        """Training time, evaluation left out."""
        return sum(e.seconds for e in self.epochs)

    @property
    def loss(self) -> float:
        """The last epoch's mean training loss."""
        return self.epochs[-1].loss
