"""From records to rows: one row an arm, its seeds together, its differences to the two controls it answers to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torchbonsai.study.record import Arm, RunRecord
from torchbonsai.study.statistics import Interval, paired, t_interval

TOLERANCE = 0.02
"""Achieved MACs further apart than this are not the same budget, and the table says so."""


@dataclass(frozen=True)
class Row:
    """An arm over its seeds. accuracy: on the test set. vs_uniform, vs_random: accuracy minus that of the uniform
    network from new weights, and of random channels at the same widths, paired by seed; None where it is that control
    or has none. uneven: which kinds of control have MACs that differ by more than 2 %."""

    arm: Arm
    records: tuple[RunRecord, ...]
    accuracy: Interval
    vs_uniform: Interval | None = None
    vs_random: Interval | None = None
    uneven: tuple[str, ...] = ()

    def mean(self, what: str) -> float:
        """The mean of a numeric field of the records, e.g. "macs"."""
        return math.fsum(getattr(r, what) for r in self.records) / len(self.records)

    @property
    def total_macs(self) -> float:
        """Mean training MACs from random weights on, the free ones left out."""
        return math.fsum(counted(r) for r in self.records) / len(self.records)

    @property
    def latency_ms(self) -> float | None:
        """The mean of the runs' median latencies."""
        medians = [r.latency["median_ms"] for r in self.records if r.latency]
        return math.fsum(medians) / len(medians) if medians else None


def counted(record: RunRecord) -> int:
    """Training MACs that count: all, but the source's on the row that takes them as downloaded."""
    return record.spent.total - (0 if record.arm.source_counted else record.spent.source)


def rows(records: Iterable[RunRecord]) -> list[Row]:
    """One row an arm, in the order in which the arms first come."""
    by_arm: dict[Arm, list[RunRecord]] = {}
    for record in records:
        by_arm.setdefault(record.arm, []).append(record)
    plain = {arm: _row(arm, runs) for arm, runs in by_arm.items()}
    return [_compared(row, plain) for row in plain.values()]


def blocks(records: Iterable[RunRecord]) -> list[tuple[str, str, list[Row]]]:
    """(budget, fairness, rows) for every budget under every fairness; the dense control of equal-epochs in each."""
    found = rows(records)
    pairs = dict.fromkeys((r.arm.budget, r.arm.fairness) for r in found if r.arm.budget)
    return [(b, f, [r for r in found if r.arm.fairness == f and r.arm.budget in (b, "")]) for b, f in pairs]


def by_seed(row: Row) -> dict[int, float]:
    """Seed -> test accuracy."""
    return {r.seed: r.test_accuracy for r in row.records}


def uniform_of(arm: Arm, arms: Iterable[Arm]) -> Arm | None:
    """The control that `arm` is compared with: uniform width from new weights at the same budget; where there are
    several, that which has its size."""
    # A last shape with new weights has the size of where it is from: of all starts alike, where it names none.
    start = arm.shape_of if arm.control == "reinitialised" else arm.start
    own = f"{start} {arm.method}"
    for other in arms:
        if (other.control, other.budget, other.fairness) != ("uniform-new", arm.budget, arm.fairness):
            continue
        if not other.fits or own in other.fits or (not start and any(name.endswith(own) for name in other.fits)):
            return other
    return None


def random_of(arm: Arm) -> Arm:
    """The control that `arm` is compared with: random channels at its widths."""
    return replace(arm, control="random-widths")


def _row(arm: Arm, runs: Sequence[RunRecord]) -> Row:
    ordered = tuple(sorted(runs, key=lambda r: r.seed))
    return Row(arm, ordered, t_interval([r.test_accuracy for r in ordered], "t-interval of the mean"))


def _compared(row: Row, others: dict[Arm, Row]) -> Row:
    if row.arm.control == "dense":
        return row
    like = uniform_of(row.arm, others) if row.arm.control != "uniform-new" else None
    uniform = others[like] if like is not None else None
    chance = others.get(random_of(row.arm)) if row.arm.control == "" else None
    return replace(
        row,
        vs_uniform=_difference(row, uniform),
        vs_random=_difference(row, chance),
        uneven=tuple(o.arm.control for o in (uniform, chance) if o is not None and _uneven(row, o)),
    )


def _difference(row: Row, other: Row | None) -> Interval | None:
    if other is None or not by_seed(row).keys() & by_seed(other).keys():
        return None
    return paired(by_seed(row), by_seed(other))


def _uneven(row: Row, other: Row) -> bool:
    a, b = row.mean("macs"), other.mean("macs")
    return abs(a - b) > TOLERANCE * max(a, b)
