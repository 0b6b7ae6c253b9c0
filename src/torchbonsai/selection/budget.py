"""What a pruned network may cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral, Real
from typing import Any

from torchbonsai.core.errors import ConfigError, message
from torchbonsai.cost.runtime import parse_target


@dataclass(frozen=True)
class Budget:
    """Upper limits that all hold at once. A float in (0, 1] is the share of the dense value to keep, an int absolute.

    macs, params: ceilings. channels: of the prunable channels; a share is a target (exact), an int a ceiling.
    widths: {group or producing module: channels to keep}, exact. shares: {group, producing module or glob pattern:
    share of its channels to keep}. outliers: in every group, remove the channels whose score lies more than so many
    standard deviations below the group's mean, or is zero where that is the least of unequal scores (1.0 with APoZ is
    Network Trimming's rule); the other limits then hold for what is left. zeros: remove the channels that are zero
    already, and nothing else; it stands alone.
    peak_bytes: of activations in an eval forward of the example inputs; model_bytes: of parameters and buffers;
    ceilings. latency: the share of the dense network's time to keep, latency_ms: milliseconds; both as measured, to
    10 %, on the device and runtime that `on` names ("cpu:onnxruntime", "cpu:eager:channels_last", "cuda:compile").
    on: alone beside other limits, says where the network will run: widths are what that device likes, and of two
    selections that fit the faster is taken. Raises ConfigError for anything else, or for nothing.

    >>> Budget(macs=0.5, params=100_000).params
    100000
    """

    macs: float | int | None = None
    params: float | int | None = None
    channels: float | int | None = None
    widths: Mapping[str, int] | None = None
    zeros: bool = False
    shares: Mapping[str, float] | None = None
    outliers: float | None = None
    peak_bytes: float | int | None = None
    model_bytes: float | int | None = None
    latency: float | None = None
    latency_ms: float | None = None
    on: str | None = None

    def __post_init__(self) -> None:
        for name in ("macs", "params", "channels", "peak_bytes", "model_bytes"):
            object.__setattr__(self, name, _amount(name, getattr(self, name)))
        if self.widths is not None:
            object.__setattr__(self, "widths", _widths(self.widths))
        if self.shares is not None:
            object.__setattr__(self, "shares", _shares(self.shares))
        self._check_latency()
        if self.on is not None and not self.searched:
            raise _invalid(
                "on= says where a searched budget is spent: it needs one of macs, params, channels, peak_bytes, "
                "model_bytes, latency, latency_ms beside it",
                repr(self),
            )
        if not isinstance(self.zeros, bool):
            raise _invalid("zeros must be True or False", repr(self.zeros))
        if self.outliers is not None:
            object.__setattr__(self, "outliers", _deviations(self.outliers))
        if self.zeros and (self.searched or self.widths or self.shares or self.on or self.outliers is not None):
            raise _invalid("zeros=True stands alone: it removes what is zero and nothing else", repr(self))
        if not (self.searched or self.widths or self.zeros or self.shares or self.outliers is not None):
            names = (
                "macs, params, channels, widths, shares, outliers, zeros, peak_bytes, model_bytes, latency, latency_ms"
            )
            raise _invalid(f"a budget needs at least one of {names}", "none of them")

    def _check_latency(self) -> None:
        if self.latency is not None:
            if not isinstance(self.latency, float):
                raise _invalid("latency must be a float in (0, 1], the share of the dense time", repr(self.latency))
            _amount("latency", self.latency)
        if self.latency_ms is not None:
            if isinstance(self.latency_ms, bool) or not isinstance(self.latency_ms, Real) or not self.latency_ms > 0:
                raise _invalid("latency_ms must be a number of milliseconds above 0", repr(self.latency_ms))
            object.__setattr__(self, "latency_ms", float(self.latency_ms))
        if self.on is not None:
            parse_target(self.on)
        if self.latency is not None and self.latency_ms is not None:
            raise _invalid("a latency is a share or in milliseconds, not both", repr(self))
        if self.on is None and (self.latency is not None or self.latency_ms is not None):
            raise ConfigError(
                message(
                    "a latency needs on=, where it is measured",
                    f"latency={self.latency}, latency_ms={self.latency_ms}, on=None",
                    "on= was left out (of the command line: --on)",
                    'e.g. on="cpu:eager" or on="cpu:onnxruntime"',
                )
            )

    @property
    def searched(self) -> bool:
        """Whether there is more to meet than fixed widths."""
        return self.measured or any(v is not None for v in (self.macs, self.params, self.channels))

    @property
    def measured(self) -> bool:
        """Whether the network itself is needed to tell what a selection costs."""
        amounts = (self.peak_bytes, self.model_bytes, self.latency, self.latency_ms)
        return any(v is not None for v in amounts) or (
            self.on is not None and any(v is not None for v in (self.macs, self.params, self.channels))
        )


def share(amount: float) -> Fraction:
    """A share as the decimal number that was written, so that 0.29 of 100 is 29 and not 28."""
    return Fraction(repr(amount))


def ceiling(amount: float | int, dense: int) -> int:
    """The largest count that `amount` allows: a share of `dense` rounded down, or the int itself."""
    return math.floor(share(amount) * dense) if isinstance(amount, float) else amount


def at_least(amount: float | int, size: int) -> int:
    """The floor of a group of `size` channels: a share of them rounded up, so at least 1, or the int itself.

    >>> at_least(0.05, 128), at_least(0.05, 16), at_least(3, 128)
    (7, 1, 3)
    """
    return math.ceil(share(amount) * size) if isinstance(amount, float) else amount


def nearest(amount: Fraction, size: int) -> int:
    """⌊amount·size + ½⌋, exactly."""
    return (2 * amount.numerator * size + amount.denominator) // (2 * amount.denominator)


def _amount(name: str, value: Any) -> float | int | None:
    if value is None:
        return None
    must = f"{name} must be a float in (0, 1], the share to keep, or a positive int, an absolute ceiling"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise _invalid(must, repr(value))
    if isinstance(value, Integral):
        if value < 1:
            raise _invalid(must, repr(value))
        return int(value)
    part = float(value)
    if not 0 < part <= 1:  # NaN fails too
        raise _invalid(must, repr(value))
    return part


def _widths(widths: Any) -> dict[str, int]:
    must = "widths must be {group or module name: a positive int}"
    if not isinstance(widths, Mapping):
        raise _invalid(must, repr(widths))
    for name, width in widths.items():
        if not isinstance(name, str) or isinstance(width, bool) or not isinstance(width, Integral) or width < 1:
            raise _invalid(must, f"{name!r}: {width!r}")
    return {name: int(width) for name, width in widths.items()}


def _shares(shares: Any) -> dict[str, float]:
    must = "shares must be {group, module or pattern: a float in (0, 1]}"
    if not isinstance(shares, Mapping):
        raise _invalid(must, repr(shares))
    for name, value in shares.items():
        if not isinstance(name, str) or not isinstance(value, float) or not 0 < value <= 1:
            raise _invalid(must, f"{name!r}: {value!r}")
    return {name: float(value) for name, value in shares.items()}


def _deviations(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < math.inf:
        raise _invalid("outliers must be a number of standard deviations, 0 or more", repr(value))
    return float(value)


def _invalid(must: str, got: str) -> ConfigError:
    return ConfigError(
        message(must, got, "a percentage, or a share to remove instead of to keep", "e.g. Budget(macs=0.5)")
    )
