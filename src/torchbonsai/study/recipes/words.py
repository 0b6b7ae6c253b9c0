"""Numbers of recipes in words: how much smaller, and differences with intervals that name themselves."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence

from torchbonsai.core.units import human
from torchbonsai.study.recipes.equal import SHARES, TOLERANCES, Removed, difference, mean
from torchbonsai.study.record import RunRecord
from torchbonsai.study.statistics import Interval, paired

NAMES = {"params": "parameters", "macs": "MACs"}
Lost = Callable[[float], tuple[Mapping[int, Removed], Mapping[int, Removed]]]
"""A tolerance -> what each of two arms lost, by seed."""


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
    """What an arm lost at its level, mean over seeds; in how many seeds no round was at it."""
    never = sum(r.point is None for r in found.values())
    parts = [f"{mean(found, what):.0%} of the {NAMES.get(what, what)}" for what in SHARES]
    return ", ".join(parts) + (f" (nothing in {never} of {len(found)} seeds, not even uncut)" if never else "")


def at_tolerances(arms: Lost, what: str) -> str:
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


def signs(measures: Mapping[str, Lost], what: str, tolerances: Collection[float]) -> str:
    """Of two measures, name -> what both arms lost: the signs of the differences whose intervals exclude zero, and
    whether they agree where both do. what: one of `SHARES`."""
    found = {name: _signs(lost, what, tolerances) for name, lost in measures.items()}
    one, other = found.values()
    told = "; ".join(f"{name}: {_signed(shown)}" for name, shown in found.items())
    alike = [t for t in one if other.get(t) == one[t]]
    unlike = [t for t in one if t in other and t not in alike]
    if not alike and not unlike:
        return f"{told}. At no tolerance do the intervals of both measures exclude zero."
    same = [f"the same sign at {_listed(alike)}"] if alike else []
    opposite = [f"opposite signs at {_listed(unlike)}"] if unlike else []
    return f"{told}. Where those of both do, the two measures have {' and '.join(same + opposite)}."


def _signs(lost: Lost, what: str, tolerances: Collection[float]) -> dict[float, str]:
    """Tolerance -> the sign of the difference, where its interval excludes zero."""
    gaps = {t: difference(*lost(t), what) for t in sorted(tolerances)}
    kept = {t: g for t, g in gaps.items() if g.low is not None and g.high is not None and g.low * g.high > 0}
    return {t: "positive" if g.mean > 0 else "negative" for t, g in kept.items()}


def _signed(found: Mapping[float, str]) -> str:
    parts = [(sign, [t for t in found if found[t] == sign]) for sign in ("positive", "negative")]
    return " and ".join(f"{sign} at {_listed(at)}" for sign, at in parts if at) or "at no tolerance"


def _listed(tolerances: Sequence[float]) -> str:
    return f"{', '.join(f'{t * 100:g}' for t in tolerances)} points"
