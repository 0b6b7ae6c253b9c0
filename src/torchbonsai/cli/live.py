"""What one sees while a study runs: a table that fills in and a bar, or a line a run on no terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live as RichLive
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from torchbonsai.report.words import percent
from torchbonsai.study.record import RunRecord
from torchbonsai.study.runner import Event


class Live:
    """A context manager whose two methods are the listeners of `compare` and of recipes."""

    def __init__(self, columns: Iterable[tuple[str, str]], console: Console) -> None:
        """columns: (budget, fairness), in order; others are added as they come. console: where to draw; lines instead
        of a table where it is no terminal."""
        self._console = console
        self._columns = list(columns)
        self._cells: dict[tuple[str, str], dict[tuple[str, str], list[float]]] = {}
        self._running: dict[str, str] = {}
        self._parts: dict[str, float] = {}  # of the running stages, how much of each is done
        self._start = time.monotonic()
        self._done, self._of = 0, 0
        self._live = RichLive(console=console, refresh_per_second=4, transient=True, get_renderable=self._draw)

    def __enter__(self) -> Self:
        """Start drawing."""
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing."""
        if self._console.is_terminal:
            self._live.stop()

    def on_event(self, event: Event) -> None:
        """A stage began, went on, or ended."""
        self._done, self._of = event.done, event.of
        spec = event.stage.spec
        if event.what in ("done", "found"):
            self._running.pop(spec, None)
            self._parts.pop(spec, None)
        elif event.what == "damaged":
            self._console.print(Text(f"run again: {event.stage.label}\n{event.note}"))
        else:
            done, of, note = event.progress or (0.0, 0.0, "")
            self._running[spec] = event.stage.label + (f" · {note}" if note else "")
            self._parts[spec] = min(done / of, 1.0) if of else 0.0

    def on_record(self, record: RunRecord) -> None:
        """A run's accuracy is known."""
        arm = record.arm
        columns = [(arm.budget, arm.fairness)] if arm.budget else [c for c in self._columns if c[1] == arm.fairness]
        for column in columns:
            if column not in self._columns:
                self._columns.append(column)
            row = self._cells.setdefault((arm.start_name, arm.name), {})
            row.setdefault(column, []).append(record.test_accuracy)
        if not self._console.is_terminal:
            where = f"{arm.budget or 'all MACs'} {arm.fairness}"
            what = f"{arm.start_name} {arm.name}, seed {record.seed}"
            self._console.print(
                Text(f"{self._elapsed():>6} {where:<20} {what:<58} {percent(record.test_accuracy)} %"), soft_wrap=True
            )

    def _elapsed(self) -> str:
        return f"{time.monotonic() - self._start:.0f} s"

    def _draw(self) -> Group:
        table = Table(box=None, pad_edge=False)
        table.add_column("start")
        table.add_column("network")
        for budget, fairness in self._columns:
            table.add_column(f"{budget} {fairness}", justify="right")
        for (start, name), row in self._cells.items():
            table.add_row(Text(start), Text(name), *[_mean(row.get(column)) for column in self._columns])
        running = " | ".join(list(self._running.values())[:4])
        state = f"stage {self._done} of {self._of} · {self._elapsed()} · {running}"
        foot = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=max(self._of, 1), completed=self._done + math.fsum(self._parts.values()), width=24)
        foot.add_row(bar, Text(state, style="dim", overflow="ellipsis", no_wrap=True))
        return Group(table, foot)


def _mean(accuracies: list[float] | None) -> Text:
    """The mean test accuracy so far, and of how many trainings."""
    if not accuracies:
        return Text("…", style="dim")
    return Text(f"{percent(math.fsum(accuracies) / len(accuracies))} ({len(accuracies)})")
