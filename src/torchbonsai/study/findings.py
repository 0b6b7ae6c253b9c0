"""One generated sentence a budget: which differences the intervals support, and which are not shown at this n."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torchbonsai.study.record import RunRecord
from torchbonsai.study.statistics import LEVEL, MIN_N, Interval, holm
from torchbonsai.study.table import Row, blocks

ALPHA = 1 - LEVEL
VARIES = "seeds vary initial weights, data order and random choices; the split is fixed"
ONE_CHECKPOINT = "; every pretrained start is the same checkpoint, where seeds vary only what comes after it"

UNEVEN = " (whose MACs differ by more than 2 %)"


@dataclass(frozen=True)
class Difference:
    """One question: is `left` better or worse than `right`? adjusted_p: after Holm, over its block's questions."""

    left: str
    right: str
    interval: Interval
    adjusted_p: float | None

    @property
    def supported(self) -> bool:
        """Whether the difference stands with all others of its block tested beside it."""
        return self.adjusted_p is not None and self.adjusted_p < ALPHA


@dataclass(frozen=True)
class Finding:
    """The differences of one budget under one fairness, and the sentence that says what they show."""

    budget: str
    fairness: str
    differences: tuple[Difference, ...]
    sentence: str


def findings(records: Iterable[RunRecord]) -> list[Finding]:
    """One finding a budget and fairness. Every method's row is compared with both controls it answers to."""
    return [_finding(budget, fairness, rows) for budget, fairness, rows in blocks(records)]


def _finding(budget: str, fairness: str, rows: list[Row]) -> Finding:
    questions = [q for row in rows if row.arm.control == "" for q in _questions(row)]
    tested = [i for _, _, i in questions if i.p is not None]
    adjusted = iter(holm([i.p for i in tested if i.p is not None]))
    differences = tuple(
        Difference(left, right, i, next(adjusted) if i.p is not None else None) for left, right, i in questions
    )
    return Finding(budget, fairness, differences, _sentence(budget, fairness, rows, differences))


def _questions(row: Row) -> list[tuple[str, str, Interval]]:
    left = f"{row.arm.start_name} {row.arm.method}"
    pairs = (
        ("the uniform network from new weights", "uniform-new", row.vs_uniform),
        ("random channels at its widths", "random-widths", row.vs_random),
    )
    return [
        (left, right + (UNEVEN if kind in row.uneven else ""), interval)
        for right, kind, interval in pairs
        if interval is not None
    ]


def _sentence(budget: str, fairness: str, rows: list[Row], differences: tuple[Difference, ...]) -> str:
    where = f"At a budget of {budget} under {fairness}"
    n = min((len(r.records) for r in rows), default=0)
    if not differences:
        return f"{where} there is nothing to compare: no method has its controls beside it."
    if n < MIN_N:
        return (
            f"{where}, n = {n} {'training' if n == 1 else 'trainings'} an arm {'is' if n == 1 else 'are'} too few for "
            f"an interval, so that none of the {len(differences)} differences is shown, nor is any ruled out."
        )
    shown = [d for d in differences if d.supported]
    head = (
        f"{where} (n = {n} trainings an arm; {_varies(rows)}), of {_count(len(differences), 'paired difference')} in "
        f"test accuracy (paired t-tests, Holm's correction at {ALPHA:.0%}) the intervals support {_supported(shown)}"
    )
    return f"{head}; {_not_shown([d for d in differences if not d.supported])}."


def _varies(rows: list[Row]) -> str:
    """What a seed changes. A pretrained start whose training was never counted anywhere is a checkpoint's."""
    counted = {r.arm.source_counted for r in rows if r.arm.start == "pretrained"}
    return VARIES + (ONE_CHECKPOINT if counted == {False} else "")


def _supported(shown: list[Difference]) -> str:
    if not shown:
        return "none"
    return f"{len(shown)}: " + ", ".join(_claim(d) for d in shown)


def _claim(d: Difference) -> str:
    verb = "above" if d.interval.mean > 0 else "below"
    return f"{d.left} is {verb} {d.right} by {abs(d.interval.mean) * 100:.1f} points {_bounds(d.interval)}"


def _not_shown(rest: list[Difference]) -> str:
    if not rest:
        return "nothing is left open"
    largest = max(rest, key=lambda d: abs(d.interval.mean))
    which = "" if len(rest) == 1 else f"{len(rest)} of them, the largest of which is "
    return (
        f"not shown at this n: {which}{largest.left} against {largest.right}, "
        f"{largest.interval.mean * 100:+.1f} points {_bounds(largest.interval)}"
    )


def _bounds(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return f"[{interval.kind}]"
    low, high = sorted((interval.low * 100, interval.high * 100))
    return f"[{low:+.1f}, {high:+.1f}]"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
