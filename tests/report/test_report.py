"""The report from made-up records: complete, self-contained, safe, and drawn by a real browser."""

from __future__ import annotations

import ast
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import vl_convert
from made_up import block, record, runs
from rich.console import Console

import torchbonsai.report
from torchbonsai.cli.compare import chosen
from torchbonsai.core.config import plain
from torchbonsai.core.errors import ArtifactError
from torchbonsai.report import figures, words
from torchbonsai.report.console import show, tables
from torchbonsai.report.page import page, write_page
from torchbonsai.report.rounds import rounds
from torchbonsai.study.about import About, Choice, Study, read_study, replaced, write_about
from torchbonsai.study.config import CompareConfig
from torchbonsai.study.record import Arm, Round, RunRecord, write
from torchbonsai.study.table import rows

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
NASTY = "<script>alert('x')</script>"


def records() -> list[RunRecord]:
    epochs = {
        ("untrained", "l1"): [0.70, 0.72, 0.74],
        ("untrained", "random-widths:l1"): [0.69, 0.70, 0.74],
        ("untrained", "uniform-new"): [0.60, 0.61, 0.64],
        ("untrained", "dense"): [0.80, 0.81, 0.84],
        ("trained", "l1"): [0.70, 0.71, 0.74],
        ("trained", "dense"): [0.81, 0.81, 0.83],
    }
    compute = {k: v for k, v in epochs.items() if k != ("trained", "dense")}
    free = [record(Arm("pretrained", "l1", "", "4x", "equal-compute", False), s, 0.7) for s in range(3)]
    sixteen = [r for r in block(epochs, budget="16x") if r.arm.control != "dense"]
    return [*block(epochs), *sixteen, *block(compute, fairness="equal-compute"), *free]


def about(**changes: Any) -> About:
    config = {"model": "bonsai_small", "threads": 1, "starts": ["untrained", "trained"], "limit_train": None}
    data = {"name": "fashion-target", "train": 1000, "val": 400, "test": 1600, "source": "MIT"}
    load = 'model = tb.load("out/best/4x")'
    choice = Choice("4x", "untrained l1", 2, 0.75, 0.71, 249_000, 4980, 9, 3, "best/4x", load)
    made = About("cafe", config, data, {"torch": "2.13.0", "torchbonsai": "0.1"}, {"device": "a chip"}, (), (choice,))
    return replace(made, **changes)


def study(folder: Path = Path("out"), **changes: Any) -> Study:
    return Study(folder, about(**changes), tuple(records()))


def printed(width: int) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    show(study(), console)
    console.file.close()
    return console.export_text()


def test_the_console_tells_everything_that_a_report_must() -> None:
    text = printed(220)
    for part in ("4x · equal-epochs", "16x · equal-epochs", "4x · equal-compute", "pretrained (source free)"):
        assert part in text
    assert "one multiply-add is one MAC" in text
    assert "mean of n = 3 trainings, ± the 95% t-interval" in text
    assert "a chip, 1 thread(s)" in text
    assert "the slowest tenth took up to 1.50x the fastest tenth" in text
    assert "+10.3 [+8.9, +11.8]" in text, "l1 minus uniform: 10, 11, 10 points: 10.33 ± 4.303 · 0.577 / sqrt(3)"


def test_half_of_the_test_set_and_training_elsewhere_are_said_where_they_are_so() -> None:
    whole = "\n".join(words.footnotes(rows(records()), about().data))
    assert "% of the test set, read" in whole
    free = [record(Arm("pretrained", "l1", "", "4x", "equal-epochs"), s, 0.7) for s in range(3)]
    free = [replace(r, spent=replace(r.spent, source=0)) for r in free]
    here = [replace(r, spent=replace(r.spent, source=5)) for r in free]
    halves = about().data | {"unseen": 800}
    text = "\n".join(words.footnotes(rows(free), halves))
    assert "% of one half of the test set, read" in text
    assert "of pretrained starts, trained elsewhere, only what was spent here" in text
    assert "elsewhere" not in "\n".join(words.footnotes(rows(here), halves))
    (choice,) = about().choices
    assert "from 9 trainings of 3 arms; 71" in chosen(choice, about().data)
    left_out = "9 trainings of 3 arms (2 left out: over 2 % more parameters than any method's network); 71"
    assert left_out in chosen(replace(choice, larger=2, unit="params"), about().data)
    assert chosen(choice, about().data).endswith("71.0% on test.")
    assert chosen(choice, halves).endswith("71.0% on one half of the test set.")
    told = page(study(data=halves))
    assert " ".join("on one half of the test set. 249,000 MACs".split()) in " ".join(told.split())


def test_latencies_that_differ_at_equal_widths_are_said() -> None:
    """The machine was not as fast for one as for the other: differences as small say nothing."""
    times = ("median_ms", "p10_ms", "p90_ms")
    alike = [record(Arm("untrained", "l1", c, "4x", "equal-epochs"), 0, 0.7) for c in ("", "random-widths")]
    for factor, told in ((1.1, False), (3.3, True)):
        slow = replace(alike[1], latency={k: v * factor for k, v in alike[0].latency.items() if k in times})
        text = "\n".join(words.footnotes(rows([alike[0], slow]), about().data))
        assert (f"are up to {factor:.1f}x apart" in text) is told
    other = replace(
        alike[1], latency={k: v * 9 for k, v in alike[0].latency.items() if k in times}, widths={"conv1": 1, "conv2": 1}
    )
    assert "apart" not in "\n".join(words.footnotes(rows([alike[0], other]), about().data))


def test_a_study_with_other_settings_in_the_same_folder_is_said(tmp_path: Path) -> None:
    settings = CompareConfig(out=str(tmp_path))
    assert replaced(settings) == "", "an empty folder"
    write_about(replace(about(), config=plain(settings)), tmp_path)
    assert replaced(replace(settings, workers=7, data_dir="elsewhere")) == "", "no result depends on these"
    said = replaced(replace(settings, lr=0.5, epochs=2.0))
    assert f"lr {settings.lr} -> 0.5" in said
    assert f"epochs {settings.epochs} -> 2.0" in said
    (tmp_path / "study.json").write_text("{")
    assert replaced(settings) == ""


def test_numbers_are_not_broken_in_a_narrow_terminal() -> None:
    assert "+10.3 [+8.9, +11.8]" in printed(120)


def test_tables_have_a_row_an_arm() -> None:
    assert [len(t.rows) for t in tables(records())] == [6, 6, 6]


def test_the_page_is_self_contained_and_escapes_what_it_shows() -> None:
    text = page(study(command=NASTY, data={**about().data, "name": NASTY}))
    assert NASTY not in text
    assert "&lt;script&gt;alert" in text
    outside = text.replace("http://www.w3.org", "").replace("https://vega.github.io", "")
    assert 'src="http' not in outside
    assert 'href="http' not in outside
    assert "tb.load(&#34;out/best/4x&#34;)" in text


@pytest.mark.parametrize("figure", [figures.accuracy_against_macs, figures.every_training, figures.widths])
def test_figures_are_valid_and_hold_the_records(figure: Any) -> None:
    spec = figure(records())
    svg = vl_convert.vegalite_to_svg(json.dumps(spec))
    assert svg.startswith("<svg")
    assert len(svg) > 5000


def test_figures_of_more_arms_than_there_are_colours() -> None:
    """Six methods from two starts with two controls each have more greys than any palette."""
    point = Round(1.0, 100, 10, 5, {"a": 5}, 0.4, 0.5)
    names = [f"m{n}" for n in range(40)]
    arms = [
        Arm("untrained", name, control, "4x", "equal-epochs") for name in names for control in ("", "reinitialised")
    ]
    many = [replace(record(arm, 0, 0.5), rounds=(point, point)) for arm in arms]
    for figure in (figures.accuracy_against_macs, rounds):
        assert vl_convert.vegalite_to_svg(json.dumps(figure(many))).startswith("<svg")


def test_a_dense_network_stands_in_the_column_of_its_start_or_in_all_if_it_is_the_only_one() -> None:
    def starts(*dense: str) -> set[str]:
        arms = [Arm(s, m, c, "4x", "equal-epochs") for s, m, c in (("untrained", "l1", ""), ("trained", "l1", ""))]
        arms += [Arm(s, "", "dense", "4x", "equal-epochs") for s in dense]
        spec = figures.accuracy_against_macs([r for n, a in enumerate(arms) for r in runs(a, [0.5 + n / 10] * 3)])
        cells = [c for data in spec["datasets"].values() for c in data if c["network"] == "dense network"]
        return {f"{c['start']} {c['mean']:.0f}" for c in cells}

    assert starts("untrained", "trained") == {"untrained 70", "trained 80"}
    assert starts("untrained") == {"untrained 70", "trained 70"}


def test_widths_are_in_forward_order_and_means_over_seeds() -> None:
    spec = figures.widths(records())
    cells = [row for data in spec["datasets"].values() for row in data]
    l1 = [c for c in cells if c["arm"] == "untrained · l1" and c["budget"] == "4x"]
    assert [(c["layer"], c["kept"], c["share"]) for c in l1] == [("conv1", 9.0, 9 / 16), ("conv2", 16.0, 0.5)]


def test_widths_from_a_start_that_was_trained_elsewhere_are_shown_too_and_once() -> None:
    counted = [record(Arm("pretrained", "l1", "", "4x", "equal-epochs"), s, 0.7) for s in range(3)]
    for seen, start in ((records(), "pretrained (source free)"), ([*records(), *counted], "pretrained")):
        cells = [row for data in figures.widths(seen)["datasets"].values() for row in data]
        assert {c["arm"] for c in cells if c["arm"].startswith("pretrained")} == {f"{start} · l1"}


def test_the_report_room_imports_no_torch() -> None:
    for path in Path(torchbonsai.report.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [n for n in names if n.split(".")[0] == "torch"], path.name


def test_a_study_is_read_back_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    runs = records()
    names = tuple(write(r, tmp_path / "records").name for r in runs)
    write_about(about(records=names), tmp_path)
    found = read_study(tmp_path)
    assert list(found.records) == runs
    assert found.about == about(records=names)
    (tmp_path / "study.json").write_text('{"type": "Study"}')
    with pytest.raises(ArtifactError, match=r"study\.json"):
        read_study(tmp_path)
    with pytest.raises(ArtifactError, match="has not finished"):
        read_study(tmp_path / "nowhere")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_browser_draws_it_without_errors_or_requests(tmp_path: Path) -> None:
    sync = pytest.importorskip("playwright.sync_api")
    path = write_page(study(tmp_path))
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-sync"]
    said: list[str] = []
    with sync.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=flags)
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.on("console", lambda m: said.append(m.text) if m.type in ("error", "warning") else None)
        tab.on("pageerror", lambda e: said.append(str(e)))
        tab.on("request", lambda r: said.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
        tab.goto(path.as_uri())
        tab.evaluate("window.drawn.then(() => 1)")
        drawn = tab.locator(".figure svg.marks").count()
        wide = tab.evaluate("document.documentElement.scrollWidth")
        browser.close()
    assert said == []
    assert drawn == 3
    assert wide <= 1280
