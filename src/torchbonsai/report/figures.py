"""Figures as Vega-Lite data: accuracy against MACs, every arm with its trainings, widths a layer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any

import altair as alt
import pandas as pd

from torchbonsai.study.record import RunRecord
from torchbonsai.study.table import Row, blocks, rows

PALETTE = ("#4c78a8", "#e45756", "#54a24b", "#b279a2", "#f58518", "#72b7b2", "#9d755d", "#ff9da6")
A_ROW = 4
"""So many starts stand side by side on a page; width searches have more."""
LABEL = 360
"""Pixels of the longest name of an arm."""
GREYS = ("#8a8a8a", "#b5b5b5", "#5f5f5f", "#cfcfcf")


def accuracy_against_macs(records: Sequence[RunRecord]) -> dict[str, Any]:
    """Mean test accuracy, its interval, against MACs kept: a column a start, a line a network; under each fairness.

    Networks at one budget are drawn side by side (the tooltip has their MACs), without the random-widths controls.
    """
    shown = [r for r in rows(records) if r.arm.control != "random-widths"]
    order = list(dict.fromkeys(r.arm.name for r in sorted(shown, key=lambda r: r.arm.control != "")))
    frame = pd.DataFrame([_beside(_point(row), order) for row in _in_every_start(shown)])
    charts = [_curves(frame[frame["fairness"] == f], f, order) for f in dict.fromkeys(frame["fairness"])]
    return _spec(alt.vconcat(*charts))


def _curves(frame: pd.DataFrame, fairness: str, order: list[str]) -> alt.FacetChart:
    spread = (frame["macs"].min() / 1.4, frame["macs"].max() * 1.4)
    base = alt.Chart(frame).encode(
        x=alt.X("x:Q", title="MACs of one image")
        .scale(type="log", domain=list(spread), nice=False)
        .axis(format="~s", grid=False, labelOverlap="greedy", tickCount=4),
        color=_color(order),
        tooltip=["start", "network", "budget", alt.Tooltip("macs:Q", format=",.0f"), _rounded("mean"), "interval"],
    )
    lines = base.mark_line(opacity=0.4, strokeWidth=1.5).encode(y=_accuracy("mean"))
    bars = base.mark_rule(strokeWidth=1.5).encode(y=_accuracy("low"), y2="high:Q")
    dots = base.mark_point(filled=True, size=50, opacity=1).encode(y=_accuracy("mean"))
    layered = alt.layer(lines, bars, dots).properties(width=215, height=230)
    starts = list(dict.fromkeys(frame["start"]))
    return layered.facet(alt.Facet("start:N", title=fairness, sort=starts), columns=A_ROW)


def _beside(point: dict[str, Any], order: list[str]) -> dict[str, Any]:
    """The point with a place on the axis of its own, a few percent from its MACs."""
    return {**point, "x": point["macs"] * 1.07 ** (order.index(point["network"]) - (len(order) - 1) / 2)}


def _rounded(name: str) -> alt.Tooltip:
    return alt.Tooltip(f"{name}:Q", format=".1f")


def every_training(records: Sequence[RunRecord]) -> dict[str, Any]:
    """For each budget under each fairness, an arm a line: its trainings as ticks, their mean and its interval."""
    charts = [_dots(budget, fairness, found) for budget, fairness, found in blocks(records)]
    return _spec(alt.vconcat(*charts).resolve_scale(color="shared"))


def widths(records: Sequence[RunRecord]) -> dict[str, Any]:
    """The share of each layer's channels that is kept, mean over the seeds, at each budget."""
    frame = pd.DataFrame([cell for row in _cut(rows(records)) for cell in _cells(row)])
    charts = [_heat(frame[frame["budget"] == budget], budget) for budget in dict.fromkeys(frame["budget"])]
    return _spec(alt.vconcat(*charts))


def _heat(frame: pd.DataFrame, budget: str) -> alt.Chart | alt.LayerChart:
    layers = list(dict.fromkeys(frame["layer"]))
    base = alt.Chart(frame, title=budget).encode(
        x=alt.X("layer:N", sort=layers, title=None).axis(labelAngle=-40),
        y=alt.Y("arm:N", sort=None, title=None).axis(labelLimit=LABEL),
    )
    share = alt.Color("share:Q", title="channels kept").scale(scheme="viridis", domain=[0, 1]).legend(format="%")
    tooltip = ["arm", "layer", alt.Tooltip("kept:Q", format=".3~g"), "of", alt.Tooltip("share:Q", format=".0%")]
    marks: alt.Chart | alt.LayerChart = base.mark_rect().encode(color=share, tooltip=tooltip)
    if len(layers) <= 12:
        ink = alt.when(alt.datum.share > 0.55).then(alt.value("#222")).otherwise(alt.value("#fff"))
        marks = marks + base.mark_text(fontSize=10).encode(text=alt.Text("kept:Q", format=".3~g"), color=ink)
    return marks.properties(width=max(280, min(760, 56 * len(layers))), height=alt.Step(20))


def _point(row: Row) -> dict[str, Any]:
    interval = row.accuracy
    mean = interval.mean * 100
    return {
        "start": row.arm.start_name,
        "network": row.arm.name,
        "kind": "control" if row.arm.control else "method",
        "budget": row.arm.budget or "all MACs",
        "fairness": row.arm.fairness,
        "macs": row.mean("macs"),
        "mean": mean,
        "low": mean if interval.low is None else interval.low * 100,
        "high": mean if interval.high is None else interval.high * 100,
        "interval": interval.kind,
    }


def _in_every_start(found: list[Row]) -> Iterable[Row]:
    """The controls from new weights are what every start is compared with, so they stand in every column; so does a
    dense network that is the only one."""
    starts = dict.fromkeys((r.arm.start, r.arm.source_counted, r.arm.fairness) for r in found)
    dense = Counter((r.arm.fairness, r.arm.budget) for r in found if r.arm.control == "dense")
    for row in found:
        arm = row.arm
        alone = arm.control == "dense" and arm.budget and dense[arm.fairness, arm.budget] == 1
        shared = arm.control == "uniform-new" or alone
        for start, counted, fairness in starts if shared else ():
            if fairness == row.arm.fairness:
                yield replace(row, arm=replace(row.arm, start=start, source_counted=counted))
        if not shared:
            yield row


def _dots(budget: str, fairness: str, found: list[Row]) -> Any:
    ordered = sorted(found, key=lambda r: -r.accuracy.mean)
    means = pd.DataFrame([{**_point(r), "arm": _arm(r)} for r in ordered])
    each = pd.DataFrame(
        [{"arm": _arm(r), "seed": x.seed, "accuracy": x.test_accuracy * 100} for r in ordered for x in r.records]
    )
    y = alt.Y("arm:N", sort=list(means["arm"]), title=None).axis(labelLimit=LABEL)
    zero = alt.Scale(zero=False)
    ticks = (
        alt.Chart(each)
        .mark_tick(thickness=1.5, opacity=0.6, color="#888")
        .encode(x=alt.X("accuracy:Q", title="test accuracy, %", scale=zero), y=y, tooltip=["arm", "seed", "accuracy"])
    )
    bars = alt.Chart(means).mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", scale=zero), x2="high:Q", y=y)
    dots = (
        alt.Chart(means)
        .mark_point(filled=True, size=70, opacity=1)
        .encode(x=alt.X("mean:Q", scale=zero), y=y, tooltip=["arm", alt.Tooltip("mean:Q", format=".1f"), "interval"])
    )
    kind = alt.Color("kind:N", title=None).scale(domain=["method", "control"], range=[PALETTE[0], GREYS[0]])
    return alt.layer(ticks, bars.encode(color=kind), dots.encode(color=kind)).properties(
        width=560, height=alt.Step(17), title=f"{budget} · {fairness}"
    )


def _arm(row: Row) -> str:
    return f"{row.arm.start_name} · {row.arm.name}"


def _cut(found: list[Row]) -> list[Row]:
    """One row for each way of choosing widths: under equal-compute they are the same, and so are random's."""
    chosen = [r for r in found if r.arm.control in ("", "uniform-new")]
    first: dict[tuple[object, ...], Row] = {}
    for r in sorted(chosen, key=lambda r: not r.arm.source_counted):  # a free source only where none is counted
        first.setdefault((r.arm.start, r.arm.method, r.arm.control, r.arm.budget, r.arm.fits), r)
    return [r for r in chosen if r in first.values()]


def _cells(row: Row) -> Iterable[dict[str, Any]]:
    for layer, dense in row.records[0].dense_widths.items():
        kept = [r.widths[layer] for r in row.records if layer in r.widths]
        if kept:
            mean = math.fsum(kept) / len(kept)
            yield {
                "budget": row.arm.budget, "arm": _arm(row), "layer": layer, "kept": mean, "of": dense,
                "share": mean / dense,
            }  # fmt: skip


def _accuracy(name: str) -> alt.Y:
    return alt.Y(f"{name}:Q", title="test accuracy, %").scale(zero=False)


def _color(domain: list[str]) -> alt.Color:
    """Methods in colours, in order; controls in greys."""
    colours, greys = cycle(PALETTE), cycle(GREYS)
    chosen = [next(greys) if " " in name else next(colours) for name in domain]
    return alt.Color("network:N", title=None).scale(domain=domain, range=chosen).legend(labelLimit=LABEL)


def _spec(chart: Any) -> dict[str, Any]:
    return chart.configure_view(strokeOpacity=0.15).to_dict()
