"""Intervals that name themselves, and Holm's correction for asking many questions at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

LEVEL = 0.95
MIN_N = 3


@dataclass(frozen=True)
class Interval:
    """A mean with, for n >= 3, a t-interval. n: trainings, one a seed. low, high, p: None where there is none.

    kind: how it is computed, or why there is none. p: of a mean of zero, two-sided.
    """

    n: int
    mean: float
    low: float | None
    high: float | None
    p: float | None
    kind: str

    @property
    def half(self) -> float | None:
        """Half the interval's width."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def t_interval(values: Sequence[float], what: str = "t-interval") -> Interval:
    """The 95 % t-interval of the mean of `values`, which are independent trainings; none below three of them.

    Equal values have no spread to judge by (accuracies are counts, so that happens): no interval is claimed then.
    """
    n = len(values)
    mean = math.fsum(values) / n
    if n < MIN_N:
        return Interval(n, mean, None, None, None, f"none: n = {n} < {MIN_N}")
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    if deviation <= 1e-12:
        return Interval(n, mean, None, None, None, f"none: no spread in n = {n}")
    error = deviation / math.sqrt(n)
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, n - 1))
    return Interval(n, mean, mean - half, mean + half, p, f"{LEVEL:.0%} {what}, n = {n} trainings")


def paired(left: Mapping[int, float], right: Mapping[int, float]) -> Interval:
    """The paired t-interval of left - right over the seeds that both have. Mappings: seed -> value.

    Raises ValueError where no seed is in both.
    """
    seeds = sorted(left.keys() & right.keys())
    if not seeds:
        raise ValueError(f"no seed in common: {sorted(left)} and {sorted(right)}")
    return t_interval([left[s] - right[s] for s in seeds], "paired t-interval")


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given: those below alpha keep the chance of even one false
    claim among all of them below alpha, whatever depends on what.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, running = [0.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        running = max(running, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = running
    return adjusted
