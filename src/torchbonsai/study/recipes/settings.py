"""Settings that every recipe has, and those of recipes in rounds."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, Self, get_args

from torchbonsai.core.config import added_later
from torchbonsai.selection.select import is_floor
from torchbonsai.study.methods import method
from torchbonsai.study.settings import Settings, among, once, wrong
from torchbonsai.training.policy import WeightPolicy


@dataclass(frozen=True)
class RecipeSettings(Settings):
    """Settings of a recipe.

    Attributes:
        width: A multiple of the model's widths, where its factory takes one: a smaller size for a small machine.
        start_epochs: Training of the network that a trained start is.
        min_channels: No group gets narrower than this: an int is a count, a float a share of its dense width, rounded
            up, but at least 2 channels.
        equal_compute: Run all arms once more with the training MACs of the costliest, counted from random weights.
    """

    width: float = 1.0
    start_epochs: float = 8.0
    min_channels: int | float = 1
    equal_compute: bool = True

    numbers: ClassVar[tuple[str, ...]] = ("width", "start_epochs", *Settings.numbers)
    either: ClassVar[tuple[str, ...]] = ()
    """Settings that say one thing in several ways: one of them may be given."""
    usual: ClassVar[tuple[tuple[str, str], ...]] = ()
    """(model, data) of the studies that the command runs where it is given none, where that is more than one."""

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers below one."""
        super().__post_init__()
        self.training(self.start_epochs, 0)
        given = [name for name in self.either if getattr(self, name) not in (None, ())]
        if len(given) > 1:
            got = ", ".join(f"{name}={getattr(self, name)!r}" for name in given)
            raise wrong(f"{' and '.join(given)} say one thing in two ways: give one of them", got)
        if not is_floor(self.min_channels):
            must = "min_channels must be an int of at least 1, a count, or a float in (0, 1], a share"
            raise wrong(must, repr(self.min_channels))

    @property
    def held_out(self) -> int:
        """Training images that no arm is trained on."""
        return 0

    def each_usual(self) -> list[Self]:
        """These settings for each usual pair of model and data, in folders OUT/MODEL-DATA; themselves where it is one.

        >>> from torchbonsai.study.recipes import RECIPES
        >>> [s.out for s in RECIPES["bonsai-hypothesis"].config(out="runs").each_usual()]
        ['runs/vgg16_bn-cifar10', 'runs/vgg16_bn-cifar100']
        """
        pairs = [(model, data, str(Path(self.out) / f"{model}-{data}")) for model, data in self.usual]
        return [replace(self, model=model, data=data, out=out) for model, data, out in pairs] or [self]


@dataclass(frozen=True)
class RoundSettings(RecipeSettings):
    """Settings of a recipe that cuts and trains in rounds.

    Attributes:
        rounds: Of cutting and training.
        round_epochs: Training after each cut.
        round_lr: Learning rate at its highest after each cut, and of the dense networks meanwhile. Default: lr.
        hold_out: So many training images are scored on and not trained on, in all arms. 0: score on training images.
            Default: 500 in linear-filter-ensembles, else 0; always 0 with test_half, which has its own images for that.
        weights: After every cut, also one of random channels: keep what survives, rewind it to the weights that the
            network had right before its first cut (trained, fine-tuned or pre-trained as far as it was then), or
            reinitialise.
    """

    rounds: int = 4
    round_epochs: float = 2.0
    hold_out: int | None = None
    weights: Literal["keep", "rewind", "reinitialise"] = added_later("keep")
    round_lr: float | None = added_later(None)

    usual_hold_out: ClassVar[int] = 0
    numbers: ClassVar[tuple[str, ...]] = ("round_epochs", "round_lr", *RecipeSettings.numbers)

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers below one."""
        super().__post_init__()
        self.training(self.round_epochs, 0)
        if not 0 < self.rate_of_rounds < math.inf:
            raise wrong("round_lr must be above 0", str(self.round_lr))
        among("weights", [self.weights], get_args(WeightPolicy))
        if self.hold_out is None:
            object.__setattr__(self, "hold_out", 0 if self.test_half else self.usual_hold_out)
        if self.rounds < 1 or self.held_out < 0:
            raise wrong("rounds must be at least 1, hold_out at least 0", f"{self.rounds}, {self.hold_out}")
        if self.held_out and self.test_half:
            must = "with test_half a quarter of the test images is scored on (at most score_images): leave hold_out out"
            raise wrong(must, f"hold_out={self.hold_out}")

    @property
    def held_out(self) -> int:
        """Training images that no arm is trained on."""
        return self.hold_out or 0

    @property
    def rate_of_rounds(self) -> float:
        """The learning rate after each cut."""
        return self.lr if self.round_lr is None else self.round_lr


def check_methods(names: tuple[str, ...]) -> None:
    """Raises ConfigError for a method that nobody knows, or one named twice."""
    once("methods", names)
    for name in names:
        method(name)
