"""When a `Pruner` cuts, and how far: schedules from training steps to the share that is kept.

A schedule is asked once a training step, the first being step 1. It answers None (no cut now) or the share of the
original to keep from then on, given the final share; the shares never rise, and the last one is the final one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torchbonsai.core.errors import ConfigError, message
from torchbonsai.criteria.options import whole


@runtime_checkable
class Schedule(Protocol):
    """What `Pruner` asks once a step."""

    def keep(self, step: int, final: float) -> float | None:
        """The share of the original to keep after training step `step` (1-based); None where nothing is cut."""
        ...


@dataclass(frozen=True)
class OneShot:
    """All at once, after training step `at`.

    >>> OneShot(at=10).keep(10, 0.5)
    0.5
    """

    at: int = 1

    def __post_init__(self) -> None:
        _whole(at=self.at)

    def keep(self, step: int, final: float) -> float | None:
        """`final` at step `at`, None at every other."""
        return final if step == self.at else None


@dataclass(frozen=True)
class Iterative:
    """`cuts` cuts, the first after step `start`, then every `every` steps; each takes the same share of what is left.

    After cut i of n, final^(i / n) is kept: the classic prune and fine-tune loop (Han et al. 2015; Li et al. 2017).

    >>> schedule = Iterative(cuts=2, every=100, start=1)
    >>> [schedule.keep(step, 0.25) for step in (1, 2, 101, 201)]
    [0.5, None, 0.25, None]
    """

    cuts: int
    every: int
    start: int = 1

    def __post_init__(self) -> None:
        _whole(cuts=self.cuts, every=self.every, start=self.start)

    def keep(self, step: int, final: float) -> float | None:
        """final^(i / cuts) at the i-th cut."""
        number, rest = divmod(step - self.start, self.every)
        if rest or not 0 <= number < self.cuts:
            return None
        return final if number + 1 == self.cuts else final ** ((number + 1) / self.cuts)


@dataclass(frozen=True)
class Interleaved:
    """Train for `every` steps, remove `share` of what is left, and again, until the final share is reached.

    The number of cuts follows from the share, not the other way round as with `Iterative`.

    >>> schedule = Interleaved(every=50, share=0.5)
    >>> [schedule.keep(step, 0.3) for step in (50, 75, 100, 150)]
    [0.5, None, 0.3, None]
    """

    every: int
    share: float = 0.1

    def __post_init__(self) -> None:
        _whole(every=self.every)
        if not 0 < self.share < 1:
            raise _invalid("share, of what is removed at a cut, must be within (0, 1)", self.share)

    def keep(self, step: int, final: float) -> float | None:
        """(1 - share)^i at the i-th cut, but not below `final`; None once that is reached."""
        number, rest = divmod(step, self.every)
        if rest or number < 1 or (1 - self.share) ** (number - 1) <= final:
            return None
        return max(final, (1 - self.share) ** number)


@dataclass(frozen=True)
class Gradual:
    """From step `begin` (where all is kept) to step `end`, a cut every `every` steps, most of them early.

    Zhu and Gupta 2017 (arXiv 1710.01878), section 3: s_t = s_f + (s_i - s_f)(1 - (t - t_0) / (n Δt))³ with s_i = 0,
    where s is the share removed.

    >>> schedule = Gradual(begin=0, end=100, every=50)
    >>> [schedule.keep(step, 0.2) for step in (1, 50, 100)]
    [None, 0.3, 0.2]
    """

    begin: int
    end: int
    every: int

    def __post_init__(self) -> None:
        _span(self.begin, self.end, self.every)

    def keep(self, step: int, final: float) -> float | None:
        """1 - s_t at every `every`-th step after `begin`, and `final` at `end`."""
        t = _time(step, self.begin, self.end, self.every)
        return None if t is None else _kept(1 - (1 - t) ** 3, final)


@dataclass(frozen=True)
class OneCycle:
    """One smooth cycle from `begin` to `end`: slow, then fast, then slow, a cut every `every` steps.

    After Hubens et al., One-Cycle Pruning (arXiv 2107.02086): s_t = s_f (1 + e^(-α + β)) / (1 + e^(-α t + β)), t in
    (0, 1] of the span. The defaults of α and β are ours.

    >>> schedule = OneCycle(begin=0, end=100, every=50)
    >>> [round(schedule.keep(step, 0.2), 3) for step in (50, 100)]
    [0.295, 0.2]
    """

    begin: int
    end: int
    every: int
    alpha: float = 14.0
    beta: float = 5.0

    def __post_init__(self) -> None:
        _span(self.begin, self.end, self.every)
        if not (self.alpha > 0 and math.isfinite(self.alpha) and math.isfinite(self.beta)):
            raise _invalid("alpha must be above 0, alpha and beta finite", (self.alpha, self.beta))

    def keep(self, step: int, final: float) -> float | None:
        """1 - s_t at every `every`-th step after `begin`, and `final` at `end`."""
        t = _time(step, self.begin, self.end, self.every)
        if t is None:
            return None
        return _kept(math.exp(_softplus(self.beta - self.alpha) - _softplus(self.beta - self.alpha * t)), final)


def _softplus(x: float) -> float:
    """log(1 + e^x), of any x."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _time(step: int, begin: int, end: int, every: int) -> float | None:
    """The share of the span that is over, at the steps that cut."""
    due = begin < step <= end and ((step - begin) % every == 0 or step == end)
    return (step - begin) / (end - begin) if due else None


def _kept(way: float, final: float) -> float:
    """The share kept when `way` of the way is gone; rounded, so that 0.3 is 0.3 and the last one is final."""
    return final if way >= 1 else max(final, round(1 - (1 - final) * way, 12))


def _span(begin: int, end: int, every: int) -> None:
    _whole(every=every)
    if not (isinstance(begin, int) and isinstance(end, int) and 0 <= begin < end):
        raise _invalid("begin and end must be steps with 0 <= begin < end", (begin, end))


def _whole(**values: object) -> None:
    for name, value in values.items():
        whole(name, value, 1)


def _invalid(must: str, got: object) -> ConfigError:
    return ConfigError(message(must, repr(got), "a typing error", "see torchbonsai.pruning.schedules"))
