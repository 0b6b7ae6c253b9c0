"""Numbers of recipes in words: how much smaller, and differences with intervals that name themselves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from torchbonsai.core.units import human
from torchbonsai.study.recipes.equal import SHARES, TOLERANCES, Removed, difference, mean
from torchbonsai.study.record import RunRecord
from torchbonsai.study.statistics import Interval, paired

NAMES = {"params": "parameters", "macs": "MACs"}


def smaller(records: Sequence[RunRecord], what: str) -> str:
    """The method's networks against the dense one, mean over seeds. what: "params" or "macs"."""
    own = [r for r in records if r.arm.control == ""]
    left = math.fsum(getattr(r, what) for r in own) / len(own)
    dense = getattr(own[0], f"dense_{what}")
    return f"{human(round(left))} of {human(dense)} {NAMES[what]} ({dense / left:.2f} times fewer)"


def gap(records: Sequence[RunRecord], control: str, against: str) -> str:
    """Test accuracy of one kind of arm minus another's, paired by seed, in points."""
    left, right = ({r.seed: r.test_accuracy for r in records if r.arm.control == c} for c in (control, against))
    return points(paired(left, right))


def points(interval: Interval) -> str:
    """A difference of accuracies in points, with its bounds where there are any, and what they are."""
    mean = f"{interval.mean * 100:+.2f} points"
    if interval.low is None or interval.high is None:
        return f"{mean} ({interval.kind})"
    return f"{mean} [{interval.low * 100:+.2f}, {interval.high * 100:+.2f}] ({interval.kind})"


def shares(found: Mapping[int, Removed]) -> str:
    """What an arm lost at equal accuracy, mean over seeds; in how many seeds no round was at its level."""
    never = sum(r.point is None for r in found.values())
    parts = [f"{mean(found, what):.0%} of the {NAMES.get(what, what)}" for what in SHARES]
    return ", ".join(parts) + (f" (nothing in {never} of {len(found)} seeds, not even uncut)" if never else "")


def at_tolerances(arms: Callable[[float], tuple[Mapping[int, Removed], Mapping[int, Removed]]], what: str) -> str:
    """The mean share that two arms lost within each of `TOLERANCES`, their difference and its interval.

    arms: what both lost by seed, given the tolerance. what: one of `SHARES`.
    """
    told = []
    for tolerance in TOLERANCES:
        left, right = arms(tolerance)
        gap = difference(left, right, what)
        bounds = "none" if gap.low is None or gap.high is None else f"{gap.low * 100:+.0f} to {gap.high * 100:+.0f}"
        told.append(
            f"{tolerance * 100:g} points {mean(left, what):.0%} / {mean(right, what):.0%} "
            f"({gap.mean * 100:+.0f} [{bounds}])"
        )
    return f"{'; '.join(told)} (points of difference, [95% paired t-interval], n = {gap.n} trainings)"
