"""The impact of pre-training: both networks pruned alike, from a source data set, a checkpoint, or a library."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_recipes import arms, followed, made_up, of
from torch import nn

import torchbonsai as tb
from torchbonsai.core.config import plain
from torchbonsai.models.bonsai_small import bonsai_small
from torchbonsai.models.build import ModelConfig, build
from torchbonsai.models.libraries import LIBRARIES
from torchbonsai.study.about import read_study
from torchbonsai.study.recipes import RECIPES
from torchbonsai.study.recipes.pretraining_impact import PretrainingImpact
from torchbonsai.study.record import RunRecord
from torchbonsai.training.start import checkpointed

SMALL = {
    "model": "bonsai_small",
    "augment": (),
    "start_epochs": 2,
    "rounds": 2,
    "round_epochs": 1,
    "share": 0.25,
    "limit_train": 64,
    "seeds": (3, 4, 5),
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[RunRecord]]:
    out = tmp_path_factory.mktemp("pretraining")
    return out, followed("pretraining-impact", out, **SMALL | {"equal_compute": False, "source_epochs": 1})


def test_arms_and_controls(study: tuple[Path, list[RunRecord]]) -> None:
    _, records = study
    starts = ("pretrained", "untrained")
    cut = {(s, "l1", control) for s in starts for control in ("", "random-widths")}
    new = {("untrained", "l1", "reinitialised"), ("untrained", "", "uniform-new")}
    assert arms(records, "equal-epochs") == cut | new | {(s, "", "dense") for s in starts}
    assert len(of(records, "reinitialised")) == 3, "one a seed: both starts end in the same shape"


def test_the_papers_second_network_is_cut_through_its_depthwise_convolutions(tmp_path: Path) -> None:
    settings = {"model": "mobilenet_v2", "width": 0.25, "rounds": 1, "share": 0.5, "start_epochs": 1, "round_epochs": 1}
    records = followed("pretraining-impact", tmp_path, **settings, equal_compute=False, limit_train=32, batch_size=16)
    for r in of(records, ""):
        assert r.widths == {n: int(0.5 * w + 0.5) for n, w in r.dense_widths.items()}
        assert r.verification["exact"] is True
    assert {r.arm.start for r in of(records, "dense")} == {"pretrained", "untrained"}


def test_every_layer_loses_the_same_share_in_every_round(study: tuple[Path, list[RunRecord]]) -> None:
    _, records = study
    for r in of(records, ""):
        for point, share in zip(r.rounds, (1, 0.75, 0.5625), strict=True):
            assert point.widths == {n: int(share * w + 0.5) for n, w in r.dense_widths.items()}
        assert r.epochs == 4.0
        assert (r.spent.source > 0) == (r.arm.start == "pretrained")


def test_the_finding_has_an_interval_and_names_the_source(study: tuple[Path, list[RunRecord]]) -> None:
    out, _ = study
    about = read_study(out).about
    assert about.data["pretrained_on"] == "fashion-source"
    sentence, others = about.sentences
    assert "Parameters lost, pre-trained minus from scratch" in sentence
    assert "n = 3" in sentence
    assert "parameters lost with other tolerances" in others


def test_a_checkpoint_s_training_is_free(tmp_path: Path) -> None:
    network = build(ModelConfig("bonsai_small", (1, 14, 14), 7), seed=9)
    torch.save(network.state_dict(), tmp_path / "source.pt")
    settings = SMALL | {"source": str(tmp_path / "source.pt"), "seeds": (3,), "rounds": 1, "start_epochs": 1}
    settings |= {"limit_train": 48, "batch_size": 8}
    records = followed("pretraining-impact", tmp_path / "out", **settings)
    for r in (r for r in records if r.arm.start == "pretrained"):
        assert not r.arm.source_counted
        assert r.spent.source == 0
    assert of(records, "", "equal-compute", start="pretrained")
    (dense,) = of(records, "dense", "equal-compute", start="pretrained")
    assert not dense.arm.source_counted
    assert len(dense.rounds) == len(of(records, "", "equal-compute", start="pretrained")[0].rounds)


def test_weights_of_another_model_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    torch.save(build(ModelConfig("lenet", (1, 14, 14), 7), seed=9).state_dict(), tmp_path / "source.pt")
    with pytest.raises(tb.DataError, match=r"source\.pt"):
        followed("pretraining-impact", tmp_path / "out", **SMALL | {"source": str(tmp_path / "source.pt")})
    with pytest.raises(tb.ConfigError, match="weights of a library belong to a model of a library"):
        followed("pretraining-impact", tmp_path / "out", **SMALL | {"source": "weights"})
    assert not (tmp_path / "out" / "stages").exists()


def test_each_arm_is_judged_by_the_dense_network_from_its_own_start() -> None:
    """Against the scratch network's .80, the pre-trained one could lose half of its filters."""
    curves = {"pretrained": [(10, 0.90), (5, 0.885)], "untrained": [(10, 0.80), (5, 0.80)]}
    dense = {"pretrained": [(10, 0.90), (10, 0.90)], "untrained": [(10, 0.80), (10, 0.80)]}
    for fairness in ("equal-epochs", "equal-compute"):
        records = [made_up(start, s, curve, fairness=fairness) for start, curve in curves.items() for s in range(3)]
        records += [made_up(start, s, c, "dense", fairness) for start, c in dense.items() for s in range(3)]
        sentence = RECIPES["pretraining-impact"](PretrainingImpact(methods=("l2",))).sentences(records)[0]
        assert "the pre-trained network lost 0% of the channels" in sentence
        assert "the network from scratch lost 50% of the channels" in sentence


class Library:
    """One network, with weights that its authors trained: all of them 0.01."""

    classes_option = "num_classes"

    def factory(self, name: str) -> object:
        return lambda num_classes=11: bonsai_small((1, 14, 14), num_classes)

    def pretrained(self, name: str) -> nn.Module:
        network = bonsai_small((1, 14, 14), 11)
        for p in network.parameters():
            p.data.fill_(0.01)
        return network

    def structure(self, name: str) -> dict[str, object]:
        return {}

    def input_shape(self, name: str, model: nn.Module) -> None:
        return None


def test_a_library_s_own_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIBRARIES, "ours", Library())
    settings = SMALL | {"model": "ours:small", "source": "weights", "seeds": (3,), "rounds": 1, "start_epochs": 1}
    records = followed("pretraining-impact", tmp_path, **settings | {"equal_compute": False})
    (pretrained,) = of(records, "", start="pretrained")
    assert not pretrained.arm.source_counted
    folder = tmp_path / "stages" / pretrained.stages["start"]
    weights = load_file(folder / "tensors.safetensors")
    same = [name for name, w in weights.items() if w.is_floating_point() and bool((w == 0.01).all())]
    assert len(same) >= 4, "all but the fresh head and the statistics"


def test_a_library_s_network_from_other_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its classes are an option of the library's own, which follows where those of a file or a source are others."""
    monkeypatch.setitem(LIBRARIES, "ours", Library())
    torch.save(build(ModelConfig("bonsai_small", (1, 14, 14), 7), seed=9).state_dict(), tmp_path / "source.pt")
    short = {"model": "ours:small", "seeds": (3,), "rounds": 1, "start_epochs": 1, "equal_compute": False}
    for name, source in (("file", str(tmp_path / "source.pt")), ("data", "fashion-source")):
        records = followed("pretraining-impact", tmp_path / name, **SMALL | short | {"source": source})
        (pretrained,) = of(records, "", start="pretrained")
        assert 0 <= pretrained.test_accuracy <= 1


class OwnHead(nn.Module):
    """Its output is of a weight of its own, which nothing can replace by another layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.weight = nn.Parameter(torch.randn(classes, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).relu().mean((2, 3)) @ self.weight.T


def own_head(classes: int = 5) -> nn.Module:
    return OwnHead(classes)


def test_a_head_that_cannot_be_made_anew_is_told_before_the_source_training(tmp_path: Path) -> None:
    name = f"{__name__}:own_head"
    with pytest.raises(tb.ConfigError, match="a fresh head needs a model"):
        followed("pretraining-impact", tmp_path / "out", **SMALL | {"model": name, "source": "fashion-source"})
    assert not (tmp_path / "out" / "stages").exists()
    same = own_head()
    torch.save(same.state_dict(), tmp_path / "same.pt")
    known = checkpointed(ModelConfig(name, (1, 14, 14), 5), tmp_path / "same.pt", seed=1)
    assert torch.equal(known.weight, same.weight), "none is needed"


def test_a_budget_is_what_is_left_of_every_layer_after_the_last_round(tmp_path: Path) -> None:
    settings = SMALL | {"share": None, "budget": "4x", "seeds": (3,), "start_epochs": 1, "source_epochs": 1}
    records = followed("pretraining-impact", tmp_path, **settings | {"equal_compute": False})
    for r in of(records, ""):
        assert [[*point.widths.values()] for point in r.rounds] == [[16, 16, 32, 32], [8, 8, 16, 16], [4, 4, 8, 8]]
        assert r.arm.budget == "4x"


def test_a_share_that_is_said_and_one_that_follows() -> None:
    usual = PretrainingImpact()
    assert (usual.share, usual.left, usual.identity) == (0.1, 0.9, PretrainingImpact(share=0.1).identity)
    assert "budget" not in plain(usual), "the identity that studies without one always had"
    asked = PretrainingImpact(budget="4x", rounds=5)
    assert replace(asked, lr=0.3).left == asked.left
    assert asked.left**5 == pytest.approx(0.25)


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(tb.ConfigError, match="share"):
        PretrainingImpact(share=1.0)
    with pytest.raises(tb.ConfigError, match="a budget is what to keep"):
        PretrainingImpact(budget="5")
    with pytest.raises(tb.ConfigError, match="share and budget say one thing"):
        PretrainingImpact(share=0.1, budget="4x")
    with pytest.raises(tb.ConfigError, match="source_epochs"):
        PretrainingImpact(source="weights", source_epochs=3)
