"""The command line: one clear error and an exit code for bad input, tables and JSON for good."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from torchbonsai.cli.main import main
from torchbonsai.models.build import ModelConfig, build

TINY = [
    *("--seeds", "1", "--epochs", "1", "--limit-train", "100", "--batch-size", "16", "--workers", "0"),
    *("--methods", "l1"),
]


def compare(out: Path, *more: str) -> int:
    return main(["compare", *TINY, "--out", str(out), *more])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--budgets", "0"], "a budget is what to keep"),
        (["--budgets", "1.5"], "a budget is what to keep"),
        (["--budgets", "0.5x"], "a budget is what to keep"),
        (["--budgets", "nan"], "a budget is what to keep"),
        (["--budgets", "4x", "25%"], "budgets must differ"),
        (["--starts", "undertrained"], "starts must be of"),
        (["--methods", "l3"], "a method is one of ours"),
        (["--methods", "factories:raising"], "out of paper"),
        (["--methods", "factories:not_a_criterion"], "must make a criterion"),
        (["--fairness", "fair"], "fairness must be of"),
        (["--fairness", "equal-compute:16x"], "fairness must be of"),
        (["--model", "resnet21"], "resnet20"),
        (["--model", "factories:raising"], "out of paper"),
        (["--model", "factories:untrainable"], "trainable parameters"),
        (["--model", "factories:all_frozen", "--starts", "untrained"], "frozen"),
        (["--data", "cifar11"], "cifar10"),
        (["--data", "cifar10"], "--data-dir"),
        (["--source", "no-such-file.pt"], "a source must be a data set or a checkpoint"),
        (["--source", "timm:resnet18"], "--source weights of the recipe pretraining-impact, beside --model timm:NAME"),
        (["--source", "fashion-source-28"], "shape"),
        (["--source", "fashion-source", "--starts", "untrained"], "source belongs to the 'pretrained' start"),
        (["--source-epochs", "2", "--starts", "trained"], "source_epochs belongs to the 'pretrained' start"),
        (["--start-epochs", "2", "--starts", "untrained"], "start_epochs belongs to the 'trained' start"),
        (["--source", __file__, "--source-epochs", "2"], "source_epochs needs a source that is trained here"),
        (["--epochs", "0"], "epochs"),
        (["--threads", "0"], "threads"),
        (["--device", "toaster"], "the device must be one"),
        (["--limit-train", "100000"], "limit_train"),
        (["--lr", "1e30", "--starts", "untrained"], "finite"),
    ],
)
def test_bad_input_is_one_error_and_leaves_no_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert compare(tmp_path, *arguments) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("way out:") == 1
    assert "Traceback" not in error
    assert list(tmp_path.glob("records/*")) == []
    assert not (tmp_path / "study.json").exists()


@pytest.mark.parametrize("name", ["stages", "records"])
def test_a_file_where_a_folder_is_needed_is_found_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / name).write_text("a file")
    assert compare(tmp_path, "--starts", "untrained") == 2
    error = capsys.readouterr().err
    assert "must be a place that can be written to" in error
    assert "Traceback" not in error
    assert not list(tmp_path.rglob("record.json"))


@pytest.mark.parametrize("below", ["", "below"])
def test_a_folder_that_cannot_be_written_to(tmp_path: Path, capsys: pytest.CaptureFixture[str], below: str) -> None:
    (tmp_path / "taken").write_text("a file")
    assert compare(tmp_path / "taken" / below, "--starts", "untrained") == 2
    error = capsys.readouterr().err
    assert "must be a place that can be written to" in error
    assert "Traceback" not in error
    assert (tmp_path / "taken").read_text() == "a file"


def test_a_refusal_of_the_file_system_is_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "study.json").mkdir()
    assert compare(tmp_path, "--starts", "untrained", "--fairness", "equal-epochs") == 2
    error = capsys.readouterr().err
    assert "files must be readable and writable" in error
    assert str(tmp_path / "study.json") in error
    assert not list((tmp_path / "study.json").iterdir())


def test_a_missing_and_a_truncated_data_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, data = tmp_path / "out", tmp_path / "data"
    data.mkdir()
    assert compare(out, "--data", "mnist", "--data-dir", str(data), "--starts", "untrained") == 2
    assert "train-images" in capsys.readouterr().err
    for name in (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ):
        (data / name).write_bytes(b"\0\0\x08\x03\0\0\0\x05")
    assert compare(out, "--data", "mnist", "--data-dir", str(data), "--starts", "untrained") == 2
    assert "idx" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("harm", ["another model", "nan", "truncated"])
def test_a_bad_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: str) -> None:
    name = "lenet" if harm == "another model" else "bonsai_small"
    tensors = {k: v.clone() for k, v in build(ModelConfig(name, (1, 14, 14), 5), seed=0).state_dict().items()}
    if harm == "nan":
        tensors["head.weight"][0, 0] = torch.nan
    path = tmp_path / "start.safetensors"
    save_file(tensors, path)
    if harm == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    assert compare(tmp_path / "out", "--source", str(path), "--starts", "pretrained") == 2
    error = capsys.readouterr().err
    assert "start.safetensors" in error
    assert error.count("way out:") == 1
    assert not (tmp_path / "out" / "study.json").exists()


def test_a_checkpoint_start_counts_its_training_as_free(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of other classes, so that it gets a fresh head."""
    path = tmp_path / "start.safetensors"
    save_file(build(ModelConfig("bonsai_small", (1, 14, 14), 7), seed=0).state_dict(), path)
    arguments = ["--source", str(path), "--starts", "pretrained", "--fairness", "equal-epochs", "--json"]
    assert compare(tmp_path / "out", *arguments) == 0
    said = json.loads(capsys.readouterr().out)
    records = said["records"]
    assert said["data"]["pretrained_on"] == str(path)
    assert "one multiply-add" in said["macs_convention"]
    assert said["versions"]["torch"] == torch.__version__
    assert said["hardware"]["device"] == records[0]["latency"]["device"]
    starts = {(r["arm"]["start"], r["arm"]["source_counted"]) for r in records}
    assert starts == {("pretrained", False), ("untrained", True)}
    assert all(r["spent"]["source"] == 0 for r in records)


def test_tables_sentences_report_and_the_lines_that_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(tmp_path, "--starts", "untrained", "--fairness", "equal-epochs", "equal-compute") == 0
    out = capsys.readouterr().out
    assert "4x · equal-epochs" in out
    assert "4x · equal-compute" in out
    assert "uniform width, new weights" in out
    assert "too few for an interval" in out
    assert "one multiply-add is one MAC" in out
    assert f'model = tb.load("{tmp_path}/best/4x")' in out
    assert "by which it was chosen from 6 trainings of 6 arms" in out
    page = (tmp_path / "report.html").read_text()
    assert "http-equiv" not in page
    assert "Accuracy against MACs" in page


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert main(["--help"]) == 0
    assert "compare" in capsys.readouterr().out
    assert main(["prune-everything"]) == 2
    assert "no command 'prune-everything'" in capsys.readouterr().err


def test_an_unknown_flag_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["compare", "--budget-of-wishes", "4x"])
    assert caught.value.code == 2
    assert "budget-of-wishes" in capsys.readouterr().err


def test_without_the_workshop_the_install_line_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    import torchbonsai.__main__ as entry

    monkeypatch.delitem(sys.modules, "torchbonsai.cli.main", raising=False)
    monkeypatch.setitem(sys.modules, "rich", None)
    assert entry.main() == 2
    assert "pip install 'torchbonsai[workshop]'" in capsys.readouterr().err
