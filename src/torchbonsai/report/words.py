"""Numbers as people read them, the same on the screen and on the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torchbonsai.core.units import human
from torchbonsai.study.about import Choice
from torchbonsai.study.statistics import LEVEL, Interval
from torchbonsai.study.table import Row

UNLIKE = 1.2
"""Latencies of networks with the same widths that are so many times apart are told of: others differ by chance, too."""
UNITS = {"macs": "MACs", "params": "parameters", "channels": "channels"}


def percent(value: float) -> str:
    """A share as percent, one digit after the point."""
    return f"{value * 100:.1f}"


def with_interval(interval: Interval) -> str:
    """A mean accuracy, with its half-interval where there is one."""
    return percent(interval.mean) + ("" if interval.half is None else f" ±{interval.half * 100:.1f}")


def difference(interval: Interval | None) -> str:
    """A paired difference in points, with its bounds where there are any."""
    if interval is None:
        return "–"
    mean = f"{interval.mean * 100:+.1f}"
    if interval.low is None or interval.high is None:
        return mean
    return f"{mean} [{interval.low * 100:+.1f}, {interval.high * 100:+.1f}]"


def chosen_from(choice: Choice) -> str:
    """How many trainings the best network was chosen from, and how many were left out because they are larger."""
    out = (
        f" ({choice.larger} left out: over 2 % more {UNITS[choice.unit]} than any method's network)"
        if choice.larger
        else ""
    )
    return f"{choice.runs} trainings of {choice.arms} arms{out}"


def kept(row: Row) -> str:
    """MACs and the share of the dense network's; an asterisk where a control's differ by more than 2 %."""
    macs = row.mean("macs")
    star = "*" if row.uneven else ""
    return f"{human(round(macs))} ({macs / row.mean('dense_macs') * 100:.1f} %){star}"


def latency(row: Row, dense_ms: float | None) -> str:
    """Milliseconds, and how many times faster than the dense network."""
    if row.latency_ms is None:
        return "…"
    speed = "" if dense_ms is None or row.arm.control == "dense" else f" ({dense_ms / row.latency_ms:.2f}x)"
    return f"{row.latency_ms:.3f}{speed}"


def length(row: Row) -> str:
    """Epochs after the cut."""
    return f"{row.mean('epochs'):.1f}".removesuffix(".0")


def dense_latency(rows: list[Row]) -> float | None:
    """The dense network's latency, for speed-ups."""
    return next((r.latency_ms for r in rows if r.arm.control == "dense"), None)


def tested(data: Mapping[str, Any]) -> str:
    """The images that test accuracies are of. data: as `About.data` has it."""
    return "one half of the test set" if "unseen" in data else "the test set"


def elsewhere(rows: Sequence[Row]) -> bool:
    """Whether a start was trained elsewhere, so that nobody knows what that cost."""
    return any(r.arm.start == "pretrained" and not any(x.spent.source for x in r.records) for r in rows)


def disagreement(rows: Sequence[Row]) -> float:
    """How many times as long the slowest network took as the fastest with the same widths; 1 where there are none."""
    alike: dict[tuple[tuple[str, int], ...], list[float]] = {}
    for record in (x for row in rows for x in row.records if x.latency):
        alike.setdefault(tuple(record.widths.items()), []).append(record.latency["median_ms"])
    return max((max(times) / min(times) for times in alike.values()), default=1.0)


def footnotes(rows: list[Row], data: Mapping[str, Any]) -> list[str]:
    """What the signs of a table mean, and what its reader must know. data: as `About.data` has it."""
    n = min((len(r.records) for r in rows), default=0)
    notes = [
        f"accuracy: % of {tested(data)}, read once after the last epoch; mean of n = {n} trainings"
        + (f", ± the {LEVEL:.0%} t-interval of that mean" if n >= 3 else "; no interval below n = 3"),
        f"differences: points, paired by seed{f', [{LEVEL:.0%} paired t-interval]' if n >= 3 else ''}, each by itself",
        "training MACs: from random weights on, 3 x forward a training image, 1 x a scored one"
        + ("; of pretrained starts, trained elsewhere, only what was spent here" if elsewhere(rows) else ""),
    ]
    if timed := [x.latency for r in rows for x in r.records if x.latency]:
        spread = max(t["p90_ms"] / t["p10_ms"] for t in timed)
        notes.append(
            "latency: one image, float32, eager; mean over the seeds of each network's median; within one network's "
            f"timing the slowest tenth took up to {spread:.2f}x the fastest tenth"
        )
    if (apart := disagreement(rows)) >= UNLIKE:
        notes.append(
            f"latencies of networks of the same widths are up to {apart:.1f}x apart: less than that says nothing"
        )
    if any(r.uneven for r in rows):
        notes.append("*: a control's MACs differ by more than 2 %: not quite the same budget, where that counts MACs")
    inexact = sorted({x.arm.name for x in rows for r in x.records if r.verification and not r.verification["exact"]})
    if inexact:
        notes.append(f"not equal to its masked network, by nature: {', '.join(inexact)}")
    return [*notes, *said(rows)]


def said(rows: list[Row]) -> list[str]:
    """What cuts had to say, each once, and of how many runs."""
    counts = Counter((row.arm.name, note) for row in rows for record in row.records for note in record.notes)
    return [f"{name}, in {count} run{'s' * (count > 1)}: {note}" for (name, note), count in counts.items()]
