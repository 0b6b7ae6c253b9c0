"""Linear filter ensembles from a checkpoint: on unseen images, its training free, only its inner channels."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_recipes import arms, followed, of

import torchbonsai as tb
from torchbonsai.data import DataConfig, load
from torchbonsai.models.build import ModelConfig, build
from torchbonsai.report.console import spec
from torchbonsai.study.about import read_study
from torchbonsai.study.recipes.linear_filter_ensembles import LinearFilterEnsembles
from torchbonsai.study.record import RunRecord
from torchbonsai.training.accuracy import accuracy
from torchbonsai.training.start import checkpointed

SMALL = {
    "model": "bonsai_small",
    "augment": (),
    "rounds": 1,
    "round_epochs": 1,
    "budget": "2x",
    "test_half": True,
    "val_size": None,
    "limit_train": 32,
}
Study = tuple[Path, list[RunRecord]]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    out = tmp_path_factory.mktemp("checkpoint")
    network = build(ModelConfig("bonsai_small", (1, 14, 14), 5), seed=9)
    torch.save(network.state_dict(), out / "mine.pt")
    settings = SMALL | {"checkpoint": str(out / "mine.pt"), "only": "features.3,features.7"}
    return out, followed("linear-filter-ensembles", out, **settings)


def test_arms_and_controls_start_from_it(study: Study) -> None:
    _, records = study
    cut = {("pretrained", "lfe", control) for control in ("", "random-widths")}
    new = {("untrained", "lfe", "reinitialised"), ("untrained", "", "uniform-new")}
    assert arms(records, "equal-epochs") == cut | new | {("pretrained", "", "dense")}


def test_its_training_is_counted_nowhere(study: Study) -> None:
    _, records = study
    assert of(records, "", "equal-compute"), "it is compared at equal compute, too"
    for r in records:
        assert (r.spent.source, r.spent.start) == (0, 0)
        assert r.arm.source_counted == (r.arm.start == "untrained")


def test_what_is_scored_on_is_not_trained_on(study: Study) -> None:
    out, records = study
    data = read_study(out).about.data
    assert (data["train"], data["unseen"], data["val"], data["test"]) == (32, 400, 400, 800)
    assert {r.samples for r in records if r.arm.fairness == "equal-epochs"} == {32}
    (lfe,) = of(records, "")
    assert lfe.spent.scoring % (64 * lfe.dense_macs) == 0, "score_images of them, as often as there are masks"


def test_only_what_is_named_is_cut(study: Study) -> None:
    _, records = study
    (lfe,) = of(records, "")
    cut = [name for name, width in lfe.widths.items() if width < lfe.dense_widths[name]]
    assert cut
    assert all(name.startswith(("features.3", "features.7")) for name in cut)


def test_the_report_says_all_that(study: Study) -> None:
    out, _ = study
    about = read_study(out).about
    assert about.config["start_epochs"] == about.config["hold_out"] == 0
    assert "checkpoint mine.pt, trained elsewhere: that training is free" in about.sentences[0]
    assert "one half of the test set and accuracy on the other" in about.sentences[0]
    assert "choices on half of the test set, accuracy on the other half" in about.data["source"]
    assert "800 to test (half of the test set" in spec(about)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"checkpoint": "w.pt"}, "--test-half"),
        ({"checkpoint": "w.pt", "test_half": True, "val_unseen": True}, "both"),
        ({"checkpoint": "w.pt", "test_half": True, "start_epochs": 3}, "start_epochs"),
        ({"checkpoint": "w.pt", "test_half": True, "start_epochs": 100}, "start_epochs"),
        ({"start_epochs": 0}, "epochs must be above 0"),
        ({"val_unseen": True}, "val_unseen"),
        ({"test_half": True, "hold_out": 20}, "hold_out"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict, said: str) -> None:
    with pytest.raises(tb.ConfigError, match=said):
        LinearFilterEnsembles(**settings)


def test_held_out_images_are_as_before_without_a_checkpoint() -> None:
    assert (LinearFilterEnsembles().hold_out, LinearFilterEnsembles().start_epochs) == (500, 100)
    mine = LinearFilterEnsembles(checkpoint="w.pt", val_unseen=True, hold_out=0)
    assert (mine.held_out, mine.start_epochs) == (0, 0)
    assert replace(mine, seeds=(1,)).start_epochs == 0, "as the command line does"


def test_names_and_checkpoint_are_checked_before_anything_runs(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(tb.DataError, match="checkpoint other"):
        followed("linear-filter-ensembles", tmp_path / "out", **SMALL | {"checkpoint": str(tmp_path / "other.pt")})
    with pytest.raises(tb.ConfigError, match="only="):
        followed("linear-filter-ensembles", tmp_path / "out", **SMALL | {"only": "layer*.conv1"})
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_published_weights_have_their_accuracy_on_the_test_half(tmp_path: Path) -> None:
    folder = os.environ.get("TORCHBONSAI_DATA")
    if not folder:
        pytest.skip("TORCHBONSAI_DATA is not set: no CIFAR-10 and no trained weights here")
    restore = [sys.executable, str(Path(folder, "restore.py")), "cifar10", str(tmp_path)]
    subprocess.run(restore, check=True, capture_output=True)
    splits = load(DataConfig("cifar10", str(tmp_path), limit_train=100, test_half=True))
    assert (len(splits.val), len(splits.test)) == (2500, 5000)
    weights = next(Path(folder, "weights").glob("resnet20-*.th"))
    model = checkpointed(ModelConfig("resnet20"), weights, seed=0)
    assert accuracy(model, splits.test, splits) == pytest.approx(0.9173, abs=0.008)
