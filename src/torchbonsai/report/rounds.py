"""The curve of a recipe as Vega-Lite data: validation accuracy round after round, against what is left."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import cycle
from typing import Any

import altair as alt
import pandas as pd

from torchbonsai.report.figures import GREYS, LABEL, PALETTE
from torchbonsai.study.record import RunRecord

MEASURES = {"params": "parameters kept", "macs": "MACs kept"}


def rounds(records: Sequence[RunRecord]) -> dict[str, Any]:
    """A line an arm (mean over seeds), a point a training: on validation, since the test set is read once, at the end.

    Arms that are never cut stand at 100 %, their last round alone. A column for parameters, one for MACs; a row a
    fairness.
    """
    frame = pd.DataFrame([cell for r in records for cell in _cells(r)])
    order = list(dict.fromkeys(frame["arm"]))
    rows = [
        alt.hconcat(*(_curve(frame[frame["fairness"] == f], m, f, order) for m in MEASURES))
        for f in dict.fromkeys(frame["fairness"])
    ]
    return alt.vconcat(*rows).configure_view(strokeOpacity=0.15).to_dict()


def _cells(record: RunRecord) -> Iterable[dict[str, Any]]:
    cut = len({r.params for r in record.rounds}) > 1 or record.rounds[-1].params < record.dense_params
    for number, point in enumerate(record.rounds if cut else record.rounds[-1:], start=1):
        yield {
            "arm": f"{record.arm.start_name} · {record.arm.name}",
            "control": record.arm.control != "",
            "budget": record.arm.budget,
            "fairness": record.arm.fairness,
            "seed": record.seed,
            "round": number,
            "params": point.params / record.dense_params,
            "macs": point.macs / record.dense_macs,
            "accuracy": point.val_accuracy * 100,
            "after_cut": None if point.after_cut is None else point.after_cut * 100,
            "recalibrated": None if point.recalibrated is None else point.recalibrated * 100,
        }


def _curve(frame: pd.DataFrame, measure: str, fairness: str, order: list[str]) -> alt.LayerChart | alt.FacetChart:
    domain = [a for a in order if a in set(frame["arm"])]
    colours, greys = cycle(PALETTE), cycle(GREYS)
    control = dict(zip(frame["arm"], frame["control"], strict=True))
    chosen = [next(greys) if control[a] else next(colours) for a in domain]
    colour = alt.Color("arm:N", title=None, sort=domain).scale(domain=domain, range=chosen).legend(labelLimit=LABEL)
    x = alt.X(f"{measure}:Q", title=MEASURES[measure]).axis(format="%").scale(zero=False)
    y = alt.Y("accuracy:Q", title="validation accuracy, %").scale(zero=False)
    mean = frame.groupby(["arm", "round", "budget"], as_index=False, sort=False)[[measure, "accuracy"]].mean()
    line = alt.Chart(mean).mark_line(strokeWidth=2).encode(x=x, y=y, color=colour, order="round:Q", detail="budget:N")
    tooltip = [
        "arm",
        "seed",
        "round",
        *(alt.Tooltip(f"{n}:Q", format=".1f") for n in ("accuracy", "after_cut", "recalibrated")),
    ]
    dots = (
        alt.Chart(frame).mark_point(filled=True, size=28, opacity=0.6).encode(x=x, y=y, color=colour, tooltip=tooltip)
    )
    return alt.layer(line, dots).properties(width=330, height=260, title=fairness)
