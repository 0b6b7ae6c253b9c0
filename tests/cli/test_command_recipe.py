"""`bonsai recipe NAME`: its help, its errors, its report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tyro

from torchbonsai.cli import recipe
from torchbonsai.cli.main import main
from torchbonsai.study.recipes import RECIPES
from torchbonsai.study.recipes.from_file import names

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
        (["pretraining-impact", "--budget", "5"], "a budget is what to keep"),
        (["pretraining-impact", "--budget", "4x", "--share", "0.1"], "share and budget say one thing in two ways"),
        (["pruning-from-scratch", "--budget", "25%", "--budgets", "50%"], "budgets and budget say one thing"),
        (["linear-filter-ensembles", "--methods", "l3"], "a method is one of ours"),
        (["pretraining-impact", "--data", "mnist", "--data-dir", "nowhere"], "nowhere"),
        (["network-trimming", "--budget", "2x", "--layers", "1"], "deviations and layers are of the outlier rule"),
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


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("bonsai-hypothesis", "Channels to keep"),
        ("pretraining-impact", "filters of every layer to keep"),
        ("linear-filter-ensembles", "MACs to keep"),
        ("pruning-from-scratch", "MACs to keep"),
        ("network-trimming", "parameters to keep"),
    ],
)
def test_every_recipe_takes_a_budget_and_says_what_it_counts(
    name: str, counts: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tyro.cli(recipe.Arguments, args=[name, "--budget", "40%"], config=recipe.MARKERS)
    found: Any = settings.recipe
    assert "40%" in (found.budgets if name == "pruning-from-scratch" else [found.budget])
    with pytest.raises(SystemExit):
        main(["recipe", name, "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--budget " in text
    assert counts in text


def test_a_budget_of_the_command_line_wins_over_what_the_file_calls_otherwise(tmp_path: Path) -> None:
    for budget in (["--budget", "25%"], ["--budget=25%"], ["--budgets", "25%"]):
        own = ["pruning-from-scratch", *budget, "--config", "pfs-imagenet-resnet50"]
        found: Any = tyro.cli(recipe.Arguments, args=recipe.expanded(own), config=recipe.MARKERS).recipe
        assert (found.budgets, found.weight_decay) == (("25%",), 4e-5)
    path = tmp_path / "mine.toml"
    path.write_text("share = 0.2\nlr = 0.3\n", encoding="utf-8")
    own = ["pretraining-impact", "--config", str(path), "--budget", "4x"]
    found = tyro.cli(recipe.Arguments, args=recipe.expanded(own), config=recipe.MARKERS).recipe
    assert (found.budget, found.share, found.lr) == ("4x", None, 0.3)


def test_a_file_s_settings_stand_before_those_of_the_command_line() -> None:
    own = ["pruning-from-scratch", "--lr", "0.2", "--config", "pfs-imagenet-resnet50", "--no-channels-last", "--json"]
    settings = tyro.cli(recipe.Arguments, args=recipe.expanded(own), config=recipe.MARKERS)
    assert settings.json
    found: Any = settings.recipe
    assert (found.lr, found.channels_last) == (0.2, False), "the command line's"
    assert (found.weight_decay, found.milestones, found.decay_depthwise) == (4e-5, (0.3, 0.6, 0.9), False)
    assert recipe.expanded(TINY) == TINY


def test_a_file_with_a_key_that_is_no_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("learning_rate = 0.1", encoding="utf-8")
    assert main(["recipe", *TINY, "--config", str(path)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "learning_rate" in said
    assert "weight_decay" in said


def test_the_help_names_the_files_that_ship(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["recipe", "pruning-from-scratch", "--help"])
    text = capsys.readouterr().out
    assert all(name in text for name in names())


PAIRS = (("bonsai_small", "fashion-target"), ("mlp", "fashion-target"))


def test_neither_model_nor_data_means_all_that_the_paper_asks_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RECIPES["network-trimming"].config, "usual", PAIRS)
    tiny = [text for text in TINY if text not in ("--data", "fashion-target")]
    assert main(["recipe", *tiny, "--out", str(tmp_path), "--json"]) == 0
    captured = capsys.readouterr()
    studies = json.loads(captured.out)
    folders = [str(tmp_path / name) for name in ("bonsai_small-fashion-target", "mlp-fashion-target")]
    assert [s["folder"] for s in studies] == folders
    assert [s["config"]["model"] for s in studies] == ["bonsai_small", "mlp"]
    assert all((Path(folder) / "report.html").exists() and f"in {folder}" in captured.err for folder in folders)
    assert (
        main(["recipe", *tiny, "--no-usual", "--data", "fashion-target", "--out", str(tmp_path / "one"), "--json"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["config"]["model"] == "lenet"


def test_all_usual_pairs_are_looked_at_before_the_first_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RECIPES["network-trimming"].config, "usual", (*PAIRS, ("lenet", "mnist")))
    tiny = [text for text in TINY if text not in ("--data", "fashion-target")]
    assert main(["recipe", *tiny, "--data-dir", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_usual_beside_a_model_or_a_data_set_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "network-trimming", "--usual"]) == 2
    assert "--usual of network-trimming" in capsys.readouterr().err
    assert main(["recipe", "bonsai-hypothesis", "--usual", "--model=vgg16_bn", "--data", "cifar10"]) == 2
    assert "--usual beside --model and --data" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "added"),
    [("bonsai-hypothesis", True), ("pretraining-impact", True), ("linear-filter-ensembles", False)],
)
def test_what_the_papers_run_by_default(name: str, added: bool, tmp_path: Path) -> None:
    assert recipe.expanded([name, "--lr", "0.1"]) == [name, "--lr", "0.1", *["--usual"] * added]
    path = tmp_path / "mine.toml"
    path.write_text('data = "cifar100"\n', encoding="utf-8")
    assert "--usual" not in recipe.expanded([name, "--config", str(path)]), "a file names the data set"
    assert "--usual" not in recipe.expanded([name, "--source", "mine.pt"]), "a file of weights fits one model"
    if added:
        assert recipe.expanded([name, "--usual", "--config", str(path)]) == [name, "--usual"], "the command line wins"
    pairs = [(s.model, s.data) for s in RECIPES[name].config().each_usual()]
    assert len(pairs) == (2 if added else 1)
    assert pairs[0][1] == "cifar10"
