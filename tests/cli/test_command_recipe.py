"""`bonsai recipe NAME`: its help, its errors, its report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from torchbonsai.cli.main import main
from torchbonsai.study.recipes import RECIPES

TINY = [
    *("network-trimming", "--data", "fashion-target", "--limit-train", "64", "--val-size", "50", "--batch-size", "32"),
    *("--score-images", "32", "--seeds", "1", "--start-epochs", "1", "--rounds", "1", "--round-epochs", "1"),
    *("--workers", "0", "--no-equal-compute"),
]


@pytest.mark.parametrize("name", RECIPES)
def test_help_says_what_is_the_paper_s_and_what_is_ours(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["recipe", name, "--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    assert "The paper's" in text
    assert "Ours:" in text
    assert "--data-dir" in text
    assert "Ours:" in RECIPES[name].method


def test_a_run_ends_in_records_a_network_and_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", *TINY, "--out", str(tmp_path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["recipe"] == "network-trimming"
    assert len(shown["records"]) == len(list((tmp_path / "records").iterdir())) == 5
    assert all(r["arm"]["fairness"] == "equal-epochs" for r in shown["records"])
    assert "<h2>Round after round</h2>" not in (tmp_path / "report.html").read_text(), "one round is no curve"
    assert (tmp_path / shown["choices"][0]["folder"] / "plan.json").exists()
    assert main(["recipe", *TINY, "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "trimming left" in text
    assert "1607.03250" in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bonsai-hypothesis", "--budget", "5"], "a budget is what to keep"),
        (["linear-filter-ensembles", "--methods", "l3"], "a method is one of ours"),
        (["pretraining-impact", "--data", "mnist", "--data-dir", "nowhere"], "nowhere"),
        (["network-trimming", "--data", "fashion-target", "--only", "conv9", "--workers", "0"], "conv9"),
        (["pruning-from-scratch", "--data", "fashion-target", "--model", "vgg17"], "vgg16"),
    ],
)
def test_bad_input_is_one_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    tiny = ["--seeds", "1", "--limit-train", "64", "--start-epochs", "1", "--batch-size", "32"]
    known = [] if "pruning-from-scratch" in arguments else ["--rounds", "1", "--round-epochs", "1"]
    assert main(["recipe", *arguments, *tiny, *known, "--out", str(tmp_path / "out")]) == 2
    assert says in capsys.readouterr().err
