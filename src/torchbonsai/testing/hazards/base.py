"""What all hazards share."""

from __future__ import annotations

from random import Random

from torch import nn

SIZE = 6
"""Height and width of every activation."""


class Hazard(nn.Module):
    """Subclasses set `out`, the number of channels that they return, and draw their own sizes from `random`."""

    out: int

    def __init__(self, channels: int, random: Random) -> None:
        super().__init__()
        self.out = channels


def conv(before: int, after: int, size: int = 3, **options: int | bool) -> nn.Conv2d:
    """A convolution that keeps height and width."""
    return nn.Conv2d(before, after, size, padding=size // 2, **options)  # type: ignore[arg-type]


def to_multiple(channels: int, of: int) -> tuple[nn.Module, int]:
    """A layer that brings `channels` up to a multiple of `of`, and that multiple."""
    wide = -(-channels // of) * of
    return (nn.Identity() if wide == channels else conv(channels, wide, 1)), wide
