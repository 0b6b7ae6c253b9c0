"""The demo's lines, and the live view."""

from __future__ import annotations

import io
import re

from made_up import block
from rich.console import Console

from torchbonsai.cli.demo import CUT, cut_line, demo_config
from torchbonsai.cli.live import Live
from torchbonsai.models.build import names
from torchbonsai.study.runner import Event
from torchbonsai.study.stage import Stage
from torchbonsai.study.stages.renew import Reinitialise


def test_a_cut_is_told_in_a_line_and_what_is_frozen_beside_it() -> None:
    line, frozen = cut_line("shufflenet_small").splitlines()
    assert re.search(r"params 71\.8 k → +\d", line)
    assert "(equal)" in line
    ratio = re.search(r"([\d.]+)x faster for ([\d.]+)x fewer MACs", line)
    assert ratio is not None
    assert 2.0 <= float(ratio[2]) < 2.2
    assert "last.0 by aten.view.default at shufflenet_small.py:" in frozen
    assert "x.view(-1, 64 * 4 * 4)" in frozen


def test_the_demo_is_what_it_says() -> None:
    config = demo_config("out", 2)
    assert set(CUT) <= set(names())
    assert (config.fair("equal-epochs"), config.fair("equal-compute")) == (("4x", "16x"), ("4x",))
    assert (len(config.starts), len(config.methods), len(config.seeds)) == (3, 3, 3)


def test_the_live_table_fills_in() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=160, color_system=None)
    records = block({("untrained", "l1"): [0.7, 0.8], ("untrained", "dense"): [0.9]})
    with Live([("4x", "equal-epochs"), ("16x", "equal-epochs")], console) as live:
        for record in records:
            live.on_record(record)
        live._live.refresh()
    shown = screen.getvalue()
    assert "75.0 (2)" in shown
    assert shown.count("90.0 (1)") >= 2, "the dense control stands under both budgets"


def test_the_bar_counts_stages_and_parts_of_those_that_run() -> None:
    stage, other = Stage(Reinitialise(1), label="training"), Stage(Reinitialise(2), label="testing")
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, color_system=None, legacy_windows=False)

    def bar(*events: Event) -> int:
        with Live([], console) as live:
            for event in events:
                live.on_event(event)
            screen.truncate(screen.seek(0))
            live._live.refresh()
            shown = screen.getvalue()
        assert "stage 1 of 4" in shown
        assert len(events) == 1 or "testing · epoch 1" in shown
        return shown.count("━") * 2 + shown.count("╸")

    whole = bar(Event("done", stage, 1, 4))
    half = bar(Event("started", other, 1, 4), Event("progress", other, 1, 4, progress=(5, 10, "epoch 1")))
    assert (whole, half) == (12, 18), "of 48 halves of 24 cells: 1 of 4, and 1.5 of 4"


def test_where_there_is_no_terminal_a_run_is_a_line() -> None:
    screen = io.StringIO()
    with Live([("4x", "equal-epochs")], Console(file=screen)) as live:
        for record in block({("untrained", "l1"): [0.7, 0.8]}):
            live.on_record(record)
    lines = screen.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[1].endswith("80.0 %")
    assert "untrained l1, seed 1" in lines[1]
