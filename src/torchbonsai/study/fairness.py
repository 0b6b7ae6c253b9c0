"""The arithmetic of the two fairnesses, in whole MACs and whole training steps.

equal-epochs: from the moment the start is given, every arm trains for the same epochs on the target set; the start's
own training is free.

equal-compute: every arm has the same total of training MACs, counted from random weights. The total of a budget is
that of its costliest arm under equal-epochs, training of the start and of the source included; an arm that costs less
trains longer, on a schedule that is stretched, never restarted. The dense control belongs to no budget, so it has no
say in the total: it starts from random weights and spends the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torchbonsai.core.errors import ConfigError, message

FORWARD, TRAINING_STEP = 1, 3
"""MACs of a forward pass, and of forward and backward, in forward passes."""


@dataclass(frozen=True)
class Spent:
    """MACs spent on one arm, from random weights on. source: pre-training on another data set. start: training of
    the dense network on the target set before the cut. scoring: forward passes that a criterion asked for.
    training: after the cut."""

    source: int = 0
    start: int = 0
    scoring: int = 0
    training: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.source + self.start + self.scoring + self.training

    @property
    def before(self) -> int:
        """What was spent when the training after the cut begins."""
        return self.source + self.start + self.scoring


@dataclass(frozen=True)
class Epoch:
    """One pass over the training images: how many there are, in how many steps.

    The steps are even, as the training loop makes them: the first images % steps of them are one image larger.
    """

    images: int
    steps: int

    def samples(self, epochs: float) -> int:
        """Images trained on in `epochs`, whose last step is always whole.

        >>> Epoch(images=10, steps=4).samples(1.5)
        16
        """
        total = max(1, -int(-(epochs * self.steps - 1e-6) // 1))
        whole, rest = divmod(total, self.steps)
        return whole * self.images + self._first(rest)

    def within(self, samples: int) -> float:
        """The most epochs, in whole steps, that train on at most `samples` images.

        >>> Epoch(images=10, steps=4).within(17)
        1.5
        """
        whole, rest = divmod(samples, self.images)
        steps = next(s for s in range(self.steps, -1, -1) if self._first(s) <= rest)
        return whole + steps / self.steps

    def _first(self, steps: int) -> int:
        """Images of the first `steps` steps of an epoch."""
        small, larger = divmod(self.images, self.steps)
        return steps * small + min(steps, larger)


def training_macs(forward_macs: int, samples: int) -> int:
    """MACs of training on `samples` images. forward_macs: of one image."""
    return TRAINING_STEP * forward_macs * samples


def scoring_macs(forward_macs: int, samples: int) -> int:
    """MACs of scoring with forward passes over `samples` images."""
    return FORWARD * forward_macs * samples


def costliest(arms: Iterable[Spent]) -> int:
    """The total of a budget: the most that any of its arms spends under equal-epochs."""
    return max(arm.total for arm in arms)


def stretched_epochs(total: int, before: int, forward_macs: int, epoch: Epoch) -> float:
    """How long an arm trains under equal-compute: all that is left of `total` after `before`, in whole steps.

    forward_macs: of one image through the network that is trained. Raises ConfigError where not one step is left.
    """
    samples = (total - before) // training_macs(forward_macs, 1) if total > before else 0
    epochs = epoch.within(samples)
    if epochs <= 0:
        raise ConfigError(
            message(
                "equal compute must leave every arm at least one training step",
                f"a total of {total} MACs, of which {before} are spent before the training begins, at "
                f"{training_macs(forward_macs, epoch.images)} MACs an epoch",
                "few epochs, or a source that was trained far longer than the target",
                "give more epochs, or fairness='equal-epochs' alone",
            )
        )
    return epochs
