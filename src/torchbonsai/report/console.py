"""Tables for the terminal; plain text where the output is no terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from torchbonsai.core.units import MACS_CONVENTION, human
from torchbonsai.report import words
from torchbonsai.study.about import About, Study
from torchbonsai.study.findings import findings
from torchbonsai.study.record import RunRecord
from torchbonsai.study.table import Row, blocks

COLUMNS = (
    "start",
    "network",
    "n",
    "accuracy",
    "vs uniform, new weights",
    "vs random, same widths",
    "MACs (kept)",
    "params",
    "latency ms",
    "epochs",
    "training MACs",
)


def cells(row: Row, dense_ms: float | None) -> tuple[str, ...]:
    """One row as texts, a text a column."""
    return (
        row.arm.start_name,
        row.arm.name,
        str(len(row.records)),
        words.with_interval(row.accuracy),
        words.difference(row.vs_uniform),
        words.difference(row.vs_random),
        words.kept(row),
        human(round(row.mean("params"))),
        words.latency(row, dense_ms),
        words.length(row),
        human(round(row.total_macs)),
    )


def block_table(budget: str, fairness: str, rows: Sequence[Row]) -> Table:
    """The table of one budget under one fairness; methods first, then controls."""
    table = Table(title=f"{budget} · {fairness}", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in COLUMNS[:2] else "right", no_wrap=column in COLUMNS[3:6])
    dense_ms = words.dense_latency(list(rows))
    for row in sorted(rows, key=lambda r: (r.arm.control != "", r.arm.control)):
        table.add_row(*map(Text, cells(row, dense_ms)), style="dim" if row.arm.control else "")
    return table


def tables(records: Iterable[RunRecord]) -> list[Table]:
    """A table for each budget under each fairness."""
    return [block_table(budget, fairness, rows) for budget, fairness, rows in blocks(records)]


def show(study: Study, console: Console | None = None) -> None:
    """Print tables, notes, sentences and choices of a finished study."""
    console = console or make_console()
    for budget, fairness, rows in blocks(study.records):
        console.print(block_table(budget, fairness, rows))
        for note in words.footnotes(rows, study.about.data):
            console.print(Text(f"  {note}", style="dim"))
        console.print()
    for sentence in (*study.about.sentences, *(f.sentence for f in findings(study.records))):
        console.print(Text(sentence))
        console.print()
    if study.about.method:
        console.print(Text(study.about.method, style="dim"))
    console.print(Text(spec(study.about), style="dim"))


def spec(about: About) -> str:
    """What every report must say: convention, data, hardware, versions."""
    data = about.data
    source = f"; pretrained starts are from {data['pretrained_on']}" if "pretrained_on" in data else ""
    doubt = f" ({data['doubt']})" if "doubt" in data else ""
    return (
        f"MACs: {MACS_CONVENTION}. Data: {data['name']}, {data['train']} images to train, {data['val']} to choose, "
        f"{data['test']} to test{_halves(data)}{source}{doubt}. Hardware: {about.hardware.get('device', '?')}, "
        f"{about.config['threads']} thread(s) a process. "
        f"Versions: {', '.join(f'{k} {v}' for k, v in sorted(about.versions.items()))}."
    )


def _halves(data: Mapping[str, Any]) -> str:
    if "unseen" not in data:
        return ""
    return f" (half of the test set; those to choose, and {data['unseen']} to score on, are the other half)"


def make_console() -> Console:
    """Standard output; wide enough for the tables where it is no terminal."""
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=200)
