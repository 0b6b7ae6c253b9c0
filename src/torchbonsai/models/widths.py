"""Widths: scaling them by a multiple, and taking them from a list."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torchbonsai.core.errors import ConfigError, message

Shape = tuple[int, int, int]
Widths = Sequence[int] | None


def scaled(channels: int, width: float) -> int:
    """`channels` times `width`, rounded half up, at least 1; no multiple of 8, so that a budget is hit closely."""
    return max(1, math.floor(channels * width + 0.5))


def widths_of(default: Sequence[int], width: float, widths: Widths) -> tuple[int, ...]:
    """The explicit list `widths` where there is one, else `default` scaled by `width`.

    Raises ConfigError for a list of another length, or with an entry below 1.
    """
    if widths is None:
        return tuple(scaled(n, width) for n in default)
    checked = positive(widths)
    if len(checked) != len(default):
        raise ConfigError(
            message(
                f"widths must have {len(default)} entries for this model (by default {tuple(default)})",
                f"{len(checked)}: {checked}",
                "a list made for another network",
                "see the model's docstring for what each entry means, or use width=",
            )
        )
    return checked


def positive(widths: Sequence[int]) -> tuple[int, ...]:
    """`widths` as a tuple; raises ConfigError unless every entry is an int of at least 1."""
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in widths):
        raise ConfigError(
            message(
                "widths must be ints of at least 1", f"{tuple(widths)}", "a share where a count is meant", "give counts"
            )
        )
    return tuple(widths)
