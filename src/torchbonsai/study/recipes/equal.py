"""What two arms lost at equal accuracy, or at an equal drop, read off their curves on validation.

A round is compared with a dense network after as many rounds: one that has been trained less is less accurate even
if nothing was cut, so that with the dense network's last accuracy as the level an untrained start could lose nothing.
Which dense network decides much. At equal accuracy it is the worse of the seed's, and a start that was trained before
begins above that level. At an equal drop it is the one from the arm's own start, and the accuracies that are left may
differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torchbonsai.study.record import Round, RunRecord
from torchbonsai.study.statistics import Interval, paired

SHARES = ("channels", "params", "macs")
TOLERANCES = (0.01, 0.02, 0.05, 0.1, 0.15)
"""Told beside a recipe's own, so that what counts as equal need not be chosen after the curves were seen."""
Levels = Mapping[int, Sequence[float]]
"""Seed -> the validation accuracy that counts as equal, for every round."""


@dataclass(frozen=True)
class Removed:
    """Of one arm and seed: the smallest network that was at its round's level; None: there is none.

    channels, params, macs: the shares removed, of the dense network's.
    """

    point: Round | None
    channels: float = 0.0
    params: float = 0.0
    macs: float = 0.0


def removed(record: RunRecord, levels: Sequence[float]) -> Removed:
    """What `record` had lost in the smallest network that ended its round at the round's level or above."""
    reached = [r for r, level in zip(record.rounds, levels, strict=True) if r.val_accuracy >= level]
    if not reached:
        return Removed(None)
    point = min(reached, key=lambda r: (r.params, r.macs))
    channels = sum(record.dense_widths.values())
    return Removed(
        point,
        1 - point.channels / channels,
        1 - point.params / record.dense_params,
        1 - point.macs / record.dense_macs,
    )


def below(dense: Sequence[RunRecord], tolerance: float) -> Levels:
    """Of every round: the worst of the seed's dense networks in that round, less `tolerance`."""
    curves: dict[int, list[list[float]]] = {}
    for record in dense:
        curves.setdefault(record.seed, []).append([r.val_accuracy for r in record.rounds])
    return {s: [min(row) - tolerance for row in zip(*found, strict=True)] for s, found in sorted(curves.items())}


def by_seed(records: Sequence[RunRecord], levels: Levels) -> dict[int, Removed]:
    """Seed -> what one arm lost at that seed's levels."""
    return {r.seed: removed(r, levels[r.seed]) for r in records}


def at_equal_accuracy(
    left: Sequence[RunRecord], right: Sequence[RunRecord], here: Sequence[RunRecord], tolerance: float
) -> tuple[dict[int, Removed], dict[int, Removed]]:
    """Seed -> what each of two arms lost at most `tolerance` below the worst of the seed's dense networks in `here`."""
    levels = below([r for r in here if r.arm.control == "dense"], tolerance)
    return by_seed(left, levels), by_seed(right, levels)


def at_own_drop(
    left: Sequence[RunRecord], right: Sequence[RunRecord], here: Sequence[RunRecord], tolerance: float
) -> tuple[dict[int, Removed], dict[int, Removed]]:
    """Seed -> what each of two arms lost at most `tolerance` below the dense network in `here` from its own start."""
    one, other = (by_seed(arm, below(_own_dense(arm, here), tolerance)) for arm in (left, right))
    return one, other


def _own_dense(arm: Sequence[RunRecord], here: Sequence[RunRecord]) -> list[RunRecord]:
    """The dense networks from the arm's own start, whose source is counted or free as the arm's is."""
    start, counted = arm[0].arm.start, arm[0].arm.source_counted
    own = [r for r in here if (r.arm.control, r.arm.start, r.arm.source_counted) == ("dense", start, counted)]
    assert {r.seed for r in own} >= {r.seed for r in arm}, "every arm has its dense control"
    return own


def difference(left: Mapping[int, Removed], right: Mapping[int, Removed], what: str) -> Interval:
    """Paired by seed: the share that `left` lost minus the share that `right` lost."""
    return paired({s: getattr(r, what) for s, r in left.items()}, {s: getattr(r, what) for s, r in right.items()})


def mean(found: Mapping[int, Removed], what: str) -> float:
    """The mean share removed over the seeds."""
    return math.fsum(getattr(r, what) for r in found.values()) / len(found)


def kept_by_layer(found: Mapping[int, Removed], dense: Mapping[str, int]) -> dict[str, float]:
    """Layer -> channels left at the level, mean over the seeds; all of them where no round was at its level."""
    widths = [dense if r.point is None else r.point.widths for r in found.values()]
    return {name: math.fsum(w[name] for w in widths) / len(widths) for name in dense}
