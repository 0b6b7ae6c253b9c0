"""Checkpoints, fresh heads and starting points."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from torchbonsai.core.errors import ConfigError, DataError
from torchbonsai.data import DataConfig, Splits, TestSplit, load
from torchbonsai.models import ModelConfig, build
from torchbonsai.training import TrainConfig, accuracy, fresh_head, load_weights
from torchbonsai.training.start import checkpointed, find_head, pretrained, trained, untrained

SHAPE = (1, 14, 14)
SMALL = ModelConfig("bonsai_small", SHAPE, 5, widths=(3, 4, 5, 6))


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


@pytest.mark.parametrize("form", ["bare", "nested", "safetensors"])
def test_a_checkpoint_is_loaded_in_each_form(tmp_path: Path, form: str) -> None:
    source, target = build(SMALL, seed=1), build(SMALL, seed=2)
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    if form == "bare":
        torch.save(source.state_dict(), path)
    elif form == "nested":
        torch.save({"state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}, "epoch": 3}, path)
    else:
        save_file(source.state_dict(), path)
    load_weights(target, path)
    assert same(source, target)


def test_a_checkpoint_of_another_model_is_named_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    tensors = dict(build(SMALL, seed=1).state_dict())
    tensors["extra.weight"] = torch.zeros(2)
    tensors["head.weight"] = torch.zeros(7, 6)
    del tensors["head.bias"]
    torch.save(tensors, path)
    model, twin = build(SMALL, seed=2), build(SMALL, seed=2)
    with pytest.raises(DataError) as caught:
        load_weights(model, path)
    for part in ("1 missing: head.bias", "1 not of this model: extra.weight", "head.weight (7, 6) for (5, 6)"):
        assert part in str(caught.value)
    assert same(model, twin)


class Pickled(nn.Module):
    """A module saved whole, which nothing should unpickle."""


@pytest.mark.parametrize(
    "kind", ["missing", "truncated", "text", "module", "number", "nan", "empty", "bad_safetensors"]
)
def test_a_file_that_is_no_checkpoint(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("w.safetensors" if kind == "bad_safetensors" else "w.pt")
    state = build(SMALL, seed=1).state_dict()
    if kind == "truncated":
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[:500])
    elif kind in ("text", "bad_safetensors"):
        path.write_text("not a checkpoint")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind in ("module", "number"):
        torch.save(Pickled() if kind == "module" else 3, path)
    elif kind == "nan":
        state["head.weight"][0, 0] = float("nan")
        torch.save(state, path)
    with pytest.raises(DataError, match=r"w\."):
        load_weights(build(SMALL), path)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("mlp", "head"),
        ("lenet", "fc2"),
        ("vgg11_bn", "classifier"),
        ("resnet20", "linear"),
        ("mobilenet_v2", "classifier.1"),
    ],
)
def test_the_head_is_found(name: str, head: str) -> None:
    shape = (1, 14, 14) if name in ("mlp", "lenet") else (3, 32, 32)
    model = build(ModelConfig(name, shape, 5, width=0.25), seed=0).train()
    assert find_head(model, torch.zeros(1, *shape))[0] == head
    assert model.training


class HeadFirst(nn.Module):
    """The head is registered first, used last, and a wide layer of the same size stands beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Conv2d(4, 3, 1, bias=False)
        self.body = nn.Conv2d(2, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.body(x).relu()).mean((2, 3))


def test_the_head_is_what_makes_the_output_not_what_comes_last() -> None:
    model = HeadFirst()
    body, state = model.body.weight.clone(), torch.get_rng_state()
    new = fresh_head(model, 7, 0, torch.zeros(1, 2, 5, 5))
    assert model.out is new
    assert model(torch.zeros(1, 2, 5, 5)).shape == (1, 7)
    assert new.bias is None
    assert torch.equal(model.body.weight, body)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_fresh_head_is_seeded() -> None:
    heads = []
    for seed in (1, 1, 2):
        heads.append(fresh_head(build(SMALL, seed=0), 4, seed, torch.zeros(1, *SHAPE)).weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


class NoHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x).mean((2, 3))


@pytest.mark.parametrize("model", [NoHead(), nn.Linear(5, 2), nn.Sequential(nn.Flatten())])
def test_a_model_without_a_head(model: nn.Module) -> None:
    with pytest.raises(ConfigError, match="head"):
        fresh_head(model, 3, 0, torch.zeros(1, 2, 5, 5))


def test_the_starting_points_differ_in_what_they_have_seen() -> None:
    target, source = load(DataConfig(limit_train=100)), load(DataConfig("fashion-source", limit_train=100))
    training = TrainConfig(1, batch_size=50)
    fresh = untrained(SMALL, seed=3)
    assert same(fresh, build(SMALL, seed=3))
    model, history = trained(SMALL, target, training, seed=3)
    assert history.samples == 100
    assert not same(model, fresh)
    before, _ = pretrained(SMALL, source, training, seed=3)
    again, _ = pretrained(SMALL, source, training, seed=3)
    assert same(before, again)
    assert before.head.weight.shape == (5, 6)
    assert before.features[0].weight.grad is None


def test_a_source_of_another_shape() -> None:
    with pytest.raises(ConfigError, match="shape"):
        pretrained(SMALL, load(DataConfig("fashion-source-28")), TrainConfig(1), seed=0)


def test_a_checkpoint_as_a_start(tmp_path: Path) -> None:
    source = build(ModelConfig("bonsai_small", SHAPE, 8, widths=(3, 4, 5, 6)), seed=1)
    torch.save(source.state_dict(), tmp_path / "w.pt")
    model = checkpointed(SMALL, tmp_path / "w.pt", seed=2)
    assert torch.equal(model.features[0].weight, source.features[0].weight)
    assert model.head.weight.shape == (5, 6)
    equal = build(SMALL, seed=4)
    torch.save(equal.state_dict(), tmp_path / "e.pt")
    assert same(checkpointed(SMALL, tmp_path / "e.pt", seed=2), equal)
    with pytest.raises(DataError, match="missing"):
        checkpointed(ModelConfig("lenet", SHAPE, 5), tmp_path / "w.pt", seed=2)


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    folder = os.environ.get("TORCHBONSAI_DATA")
    if not folder:
        pytest.skip("TORCHBONSAI_DATA is not set: no CIFAR-10 and no trained weights here")
    out = tmp_path_factory.mktemp("cifar10")
    subprocess.run(
        [sys.executable, str(Path(folder, "restore.py")), "cifar10", str(out)], check=True, capture_output=True
    )
    return load(DataConfig("cifar10", str(out), limit_train=100))


def published(depth: int) -> nn.Module:
    weights = next(Path(os.environ["TORCHBONSAI_DATA"], "weights").glob(f"resnet{depth}-*.th"))
    return checkpointed(ModelConfig(f"resnet{depth}"), weights, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "expected"), [(20, 0.9173), (56, 0.9339)])
def test_published_weights_on_a_part_of_the_test_set(cifar: Splits, depth: int, expected: float) -> None:
    part = TestSplit(cifar.test.x[:500], cifar.test.y[:500])
    assert accuracy(published(depth), part, cifar) == pytest.approx(expected, abs=0.03)


@pytest.mark.slow
def test_published_resnet20_on_the_whole_test_set(cifar: Splits) -> None:
    assert round(accuracy(published(20), cifar.test, cifar), 4) == 0.9173
