"""What two arms lost at equal accuracy, read off their curves on validation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torchbonsai.study.record import Round, RunRecord
from torchbonsai.study.statistics import Interval, paired

SHARES = ("channels", "params", "macs")
TOLERANCES = (0.01, 0.02, 0.05, 0.1, 0.15)
"""Told beside a recipe's own, so that what counts as equal need not be chosen after the curves were seen."""


@dataclass(frozen=True)
class Removed:
    """Of one arm and seed: the smallest network whose validation accuracy reached `level`; None where none did.

    channels, params, macs: the shares removed, of the dense network's.
    """

    level: float
    point: Round | None
    channels: float = 0.0
    params: float = 0.0
    macs: float = 0.0


def removed(record: RunRecord, level: float) -> Removed:
    """What `record` had lost in the last of its rounds that ended at `level` or above."""
    reached = [r for r in record.rounds if r.val_accuracy >= level]
    if not reached:
        return Removed(level, None)
    point = min(reached, key=lambda r: (r.params, r.macs))
    channels = sum(record.dense_widths.values())
    return Removed(
        level,
        point,
        1 - point.channels / channels,
        1 - point.params / record.dense_params,
        1 - point.macs / record.dense_macs,
    )


def common_levels(records: Sequence[RunRecord], tolerance: float) -> dict[int, float]:
    """Seed -> the validation accuracy that every dense network of the seed ended with or above, less `tolerance`."""
    dense = [r for r in records if r.arm.control == "dense"]
    return {s: min(r.val_accuracy for r in dense if r.seed == s) - tolerance for s in sorted({r.seed for r in dense})}


def by_seed(records: Sequence[RunRecord], levels: Mapping[int, float]) -> dict[int, Removed]:
    """Seed -> what one arm lost at that seed's level."""
    return {r.seed: removed(r, levels[r.seed]) for r in records}


def difference(left: Mapping[int, Removed], right: Mapping[int, Removed], what: str) -> Interval:
    """Paired by seed: the share that `left` lost minus the share that `right` lost."""
    return paired({s: getattr(r, what) for s, r in left.items()}, {s: getattr(r, what) for s, r in right.items()})


def mean(found: Mapping[int, Removed], what: str) -> float:
    """The mean share removed over the seeds."""
    return math.fsum(getattr(r, what) for r in found.values()) / len(found)


def kept_by_layer(found: Mapping[int, Removed], dense: Mapping[str, int]) -> dict[str, float]:
    """Layer -> channels left at the level, mean over the seeds; all of them where the level was not reached."""
    widths = [dense if r.point is None else r.point.widths for r in found.values()]
    return {name: math.fsum(w.get(name, dense[name]) for w in widths) / len(widths) for name in dense}
