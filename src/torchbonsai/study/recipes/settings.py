"""Settings that every recipe has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torchbonsai.study.settings import Settings, wrong


@dataclass(frozen=True)
class RecipeSettings(Settings):
    """Settings of a recipe.

    Attributes:
        width: A multiple of the model's widths, where its factory takes one: a smaller size for a small machine.
        start_epochs: Training of the network that a trained start is.
        rounds: Of cutting and training.
        round_epochs: Training after each cut.
        min_channels: No group gets narrower than this.
        hold_out: So many training images are scored on and not trained on, in all arms. 0: score on training images.
        equal_compute: Run all arms once more with the training MACs of the costliest, counted from random weights.
    """

    width: float = 1.0
    start_epochs: float = 8.0
    rounds: int = 4
    round_epochs: float = 2.0
    min_channels: int = 1
    hold_out: int = 0
    equal_compute: bool = True

    numbers: ClassVar[tuple[str, ...]] = ("width", "start_epochs", "round_epochs", *Settings.numbers)

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers below one."""
        super().__post_init__()
        for epochs in (self.start_epochs, self.round_epochs):
            self.training(epochs, 0)
        if min(self.rounds, self.min_channels) < 1 or self.hold_out < 0:
            raise wrong(
                "rounds and min_channels must be at least 1, hold_out at least 0",
                f"{self.rounds}, {self.min_channels}, {self.hold_out}",
            )
