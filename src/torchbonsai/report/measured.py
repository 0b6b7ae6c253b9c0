"""What `measure` found, as a table, a picture, and sentences: where MACs fell and time did not, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import altair as alt
import pandas as pd
import vl_convert
from rich.table import Table
from rich.text import Text

from torchbonsai.artifacts.measure import MULTIPLE, Measured, Size, Timed
from torchbonsai.core.units import human

FEWER = 1.1
"""Networks whose MACs differ by less are not compared."""
FOLLOWS = 0.8
"""Time follows where the speed-up is at least this part of the ratio of MACs."""


def sizes_table(found: Measured) -> Table:
    """A row a network: what can be counted."""
    table = _table(
        "network", "MACs", "params", "bytes", *(f"peak bytes, batch {b}" for b in found.batches), "odd widths"
    )
    for size in found.sizes:
        counted = (human(size.macs), human(size.params), human(size.model_bytes), *map(human, size.peak_bytes))
        table.add_row(*map(Text, (size.model, *counted, f"{size.odd_macs:.0%} of MACs")))
    return table


def timings_table(found: Measured) -> Table:
    """A row a network, runtime, layout, batch size and number of threads."""
    columns = "runtime", "layout", "batch", "threads", "median ms", "p10", "p90", "n", "speed-up", "fewer MACs"
    table = _table("network", *columns)
    macs = {size.model: size.macs for size in found.sizes}
    for row in found.timings:
        where = (row.model, row.runtime, row.layout, str(row.batch), str(row.threads))
        table.add_row(*map(Text, (*where, *_numbers(row), f"{macs[found.sizes[0].model] / macs[row.model]:.2f}x")))
    return table


def sentences(found: Measured) -> list[str]:
    """Where MACs fell and time did not, and what to do; what could not be run; what is not installed."""
    said = [f"{row.model} was not timed on {row.runtime}: {row.reason}" for row in found.timings if row.reason]
    first = found.sizes[0]
    for size in found.sizes[1:]:
        ratio = first.macs / size.macs
        if ratio >= FEWER:
            said += _behind(found, first, size, ratio)
    return [*said, *found.missing]


def spec(found: Measured) -> str:
    """What must be known to read the numbers."""
    timed = next((row.latency for row in found.timings if row.latency), None)
    device = timed.device if timed else "no device"
    return (
        f"MACs of one input. Bytes: parameters and buffers. Peak: what an eval forward allocates beyond weights and "
        f"inputs, eager. Latency of one pass over the batch on {device}: n blocks of passes (a block at least 20 ms), "
        f"arms in turns; speed-up: against {found.sizes[0].model}, median over rounds. Versions: "
        f"{', '.join(f'{k} {v}' for k, v in sorted(found.versions.items()))}."
    )


def as_json(found: Measured) -> dict[str, Any]:
    """The same as data."""
    return {
        "models": [dict(vars(size)) | {"peak_bytes": dict(_peaks(found, size))} for size in found.sizes],
        "timings": [{**vars(row), "latency": vars(row.latency) if row.latency else None} for row in found.timings],
        "sentences": sentences(found),
        "versions": found.versions,
    }


def picture(found: Measured, form: str) -> bytes:
    """Latencies, median and p10 to p90, a panel a batch size and number of threads. form: "svg" or "png"."""
    spec_ = _chart(found).to_dict()
    if form == "svg":
        drawn: str = vl_convert.vegalite_to_svg(spec_)
        return drawn.encode()
    return bytes(vl_convert.vegalite_to_png(spec_, scale=2))


def _chart(found: Measured) -> Any:
    rows = [_point(row) for row in found.timings if row.latency]
    frame = pd.DataFrame(rows, columns=["model", "runtime", "panel", "median", "low", "high"])
    order = [size.model for size in found.sizes]
    base = alt.Chart(frame).encode(
        y=alt.Y("model:N", sort=order, title=None),
        yOffset=alt.YOffset("runtime:N"),
        color=alt.Color("runtime:N", title=None),
    )
    bars = base.mark_bar().encode(x=alt.X("median:Q", title="latency, ms: median, p10 to p90"))
    spread = base.mark_rule(color="#333").encode(x="low:Q", x2="high:Q", color=alt.value("#333"))
    panel = alt.layer(bars, spread).properties(width=420, height=alt.Step(14))
    order_of_panels = list(dict.fromkeys(row[2] for row in rows))
    panels = panel.facet(row=alt.Row("panel:N", title=None, sort=order_of_panels))
    return panels.resolve_scale(x="independent")  # a batch of 16 would leave nothing to see of a batch of one


def _point(row: Timed) -> tuple[str, str, str, float, float, float]:
    assert row.latency is not None
    where = row.runtime if row.layout == "contiguous" else f"{row.runtime}, {row.layout}"
    panel = f"batch {row.batch}, {row.threads} thread(s)"
    return row.model, where, panel, row.latency.median_ms, row.latency.p10_ms, row.latency.p90_ms


def _numbers(row: Timed) -> tuple[str, ...]:
    if row.latency is None:
        return "–", "–", "–", "0", "–"
    taken = (f"{v:.3g}" for v in (row.latency.median_ms, row.latency.p10_ms, row.latency.p90_ms))
    return *taken, str(row.latency.n), "–" if row.speed_up is None else f"{row.speed_up:.2f}x"


def _behind(found: Measured, first: Size, size: Size, ratio: float) -> Iterator[str]:
    """A sentence for each condition under which time did not follow."""
    rows = [row for row in found.timings if row.model == size.model and row.speed_up is not None]
    for row in rows:
        assert row.speed_up is not None
        if row.speed_up >= FOLLOWS * ratio:
            continue
        where = f"{row.runtime}, {row.layout}, batch {row.batch}, {row.threads} thread(s)"
        yield (
            f"{size.model} has {ratio:.2f}x fewer MACs than {first.model} and is {row.speed_up:.2f}x as fast "
            f"on {where}. What to do: {'; '.join(_advice(row, rows, size, ratio, found.device))}."
        )


def _advice(row: Timed, rows: list[Timed], size: Size, ratio: float, device: str) -> list[str]:
    """Round, another runtime, other layers: what the measurement itself supports."""
    said = []
    if size.odd_macs > 0.1:
        odd = f"{size.odd_macs:.0%} of its MACs are at widths that are no multiple of {MULTIPLE}"
        said.append(f"{odd}: --round-to {MULTIPLE} or 16")
    best = max((r for r in rows if (r.batch, r.threads) == (row.batch, row.threads)), key=lambda r: r.speed_up or 0)
    if best is not row and (best.speed_up or 0) >= FOLLOWS * ratio:
        said.append(f"{best.runtime}, {best.layout}, follows ({best.speed_up:.2f}x)")
    layout = "" if row.layout == "contiguous" else f":{row.layout}"
    said.append(f"cut where the time is: bonsai prune --on {device}:{row.runtime}{layout}")
    return said


def _peaks(found: Measured, size: Size) -> Iterator[tuple[str, int]]:
    for batch, peak in zip(found.batches, size.peak_bytes, strict=True):
        yield f"batch {batch}", peak


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, column in enumerate(columns):
        left = number == 0 or column in ("runtime", "layout")
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    return table
