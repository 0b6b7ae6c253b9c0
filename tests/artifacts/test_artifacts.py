"""Save and load: the same bits back, or one clear error and nothing half-written."""

import json
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from torchbonsai.artifacts import load, save
from torchbonsai.artifacts.folder import MANIFEST, PLAN, WEIGHTS
from torchbonsai.artifacts.state import stored
from torchbonsai.core.errors import ArtifactError, PruningError
from torchbonsai.models import ModelConfig
from torchbonsai.surgery.apply import apply
from torchbonsai.surgery.plan import PruningPlan
from torchbonsai.testing import toys

CHAIN = "torchbonsai.testing.toys:Chain"


def cut_chain():
    """(small model, plan): 3 of conv1's 5 and 4 of conv2's 7 channels."""
    toy = toys.chain()
    kept = toy.graph.keep({"conv1": np.array([1, 0, 1, 0, 1], bool), "conv2": np.arange(7) % 2 == 0})
    positions = toy.graph.kept_positions(kept)
    plan = make_plan(toy.graph, positions)
    return apply(plan, toy.model), plan


def make_plan(graph, positions):
    kept = {n: {a: torch.from_numpy(i) for a, i in axes.items()} for n, axes in positions.items()}
    return PruningPlan(kept, {n: graph.shapes[n] for n in kept})


def same_bits(one, two):
    a, b = stored(one), stored(two)
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) and a[n].dtype == b[n].dtype for n in a)


def test_round_trip_is_bit_identical(tmp_path):
    model, plan = cut_chain()
    assert save((model, plan), tmp_path / "net", build=CHAIN) == tmp_path / "net"
    again = load(tmp_path / "net")
    x = toys.chain().inputs
    assert type(again) is toys.Chain
    assert again.conv1.weight.shape == (3, 3, 3, 3)
    assert same_bits(model, again)
    assert torch.equal(model(x), again(x))
    assert {p.name for p in (tmp_path / "net").iterdir()} == {WEIGHTS, PLAN, MANIFEST}
    assert json.loads((tmp_path / "net" / MANIFEST).read_text())["environment"]["torch"] == torch.__version__


def test_a_result_object_is_saved_too(tmp_path):
    class Result:
        model, plan = cut_chain()

    save(Result(), tmp_path / "net", build=CHAIN)
    assert same_bits(load(tmp_path / "net"), Result.model)


def test_flags_dtypes_and_layouts_come_back(tmp_path):
    model, plan = cut_chain()
    model.train()
    model.bn1.eval()
    model.conv1.weight.requires_grad_(False)
    model.half().to(memory_format=torch.channels_last)
    model.fc.double()
    save((model, plan), tmp_path / "net", build=CHAIN)
    again = load(tmp_path / "net")
    assert same_bits(model, again)
    assert (again.training, again.bn1.training, again.conv2.training) == (True, False, True)
    assert not again.conv1.weight.requires_grad
    assert again.conv2.weight.requires_grad
    assert again.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert not again.conv1.weight.is_contiguous()
    assert (again.conv1.weight.dtype, again.fc.weight.dtype) == (torch.float16, torch.float64)
    assert again.bn1.num_batches_tracked.dtype == torch.int64


def test_a_pointwise_kernel_keeps_its_channels_last_strides(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Conv2d(5, 2, 3)).to(memory_format=torch.channels_last)
    save((model, None), tmp_path / "net", build=lambda: nn.Sequential(nn.Conv2d(3, 5, 1), nn.Conv2d(5, 2, 3)))
    again = load(tmp_path / "net", build=lambda: nn.Sequential(nn.Conv2d(3, 5, 1), nn.Conv2d(5, 2, 3)))
    assert [p.stride() for p in again.parameters()] == [p.stride() for p in model.parameters()]


class Tied(nn.Module):
    """Two linear layers with one weight, and a buffer outside the state dict."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.b.weight = self.a.weight
        self.register_buffer("scale", torch.ones(1), persistent=False)

    def forward(self, x):
        return self.b(self.a(x)) * self.scale


def test_tied_weights_stay_tied_and_loose_buffers_are_kept(tmp_path):
    model = Tied()
    model.scale.fill_(3)
    save((model, None), tmp_path / "net", build=Tied)
    again = load(tmp_path / "net", build=Tied)
    assert again.a.weight is again.b.weight
    assert torch.equal(again(torch.ones(1, 3)), model(torch.ones(1, 3)))


def test_a_callable_is_asked_for_again(tmp_path):
    model, plan = cut_chain()
    save((model, plan), tmp_path / "net", build=toys.Chain)
    with pytest.raises(ArtifactError, match="cannot be stored"):
        load(tmp_path / "net")
    state = torch.get_rng_state()
    assert same_bits(load(tmp_path / "net", build=toys.Chain), model)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_zoo_config_is_stored(tmp_path):
    from torchbonsai.models import build

    config = ModelConfig("mlp", in_shape=(1, 5, 5), classes=3, widths=(7, 6))
    model = build(config, seed=1)
    save((model, None), tmp_path / "net", build=config)
    assert same_bits(load(tmp_path / "net"), model)


def test_an_unknown_build_is_asked_for(tmp_path):
    with pytest.raises(ArtifactError, match="build"):
        save(cut_chain(), tmp_path / "net")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [toys.Residual, Tied, lambda: 1 / 0, lambda: 3])
def test_a_wrong_build_is_refused_and_nothing_is_left(tmp_path, wrong):
    with pytest.raises(ArtifactError):
        save(cut_chain(), tmp_path / "net", build=wrong)
    assert not list(tmp_path.iterdir())
    save(cut_chain(), tmp_path / "net", build=CHAIN)
    with pytest.raises(ArtifactError):
        load(tmp_path / "net", build=wrong)


def test_unknown_name_is_one_clear_error(tmp_path):
    with pytest.raises(PruningError, match="no_such_network"):
        save(cut_chain(), tmp_path / "net", build="no_such_network")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [WEIGHTS, PLAN, MANIFEST])
@pytest.mark.parametrize("damage", ["missing", "truncated", "altered"])
def test_damaged_files(tmp_path, name, damage):
    folder = save(cut_chain(), tmp_path / "net", build=CHAIN)
    path, raw = folder / name, (folder / name).read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(raw[: len(raw) // 2])
    else:
        where = len(raw) - 20 if name == WEIGHTS else raw.index(b"0" if name == PLAN else b"toys:Chain")
        path.write_bytes(raw[:where] + bytes([raw[where] ^ 1]) + raw[where + 1 :])
    with pytest.raises(ArtifactError, match=r"tb\.save wrote"):
        load(folder)


def test_no_folder(tmp_path):
    with pytest.raises(ArtifactError, match="no artifact"):
        load(tmp_path / "nothing")


def test_an_older_artifact_is_replaced_and_anything_else_is_not(tmp_path):
    model, plan = cut_chain()
    save((toys.chain().model, None), tmp_path / "net", build=CHAIN)
    save((model, plan), tmp_path / "net", build=CHAIN)
    assert same_bits(load(tmp_path / "net"), model)
    assert [p.name for p in tmp_path.iterdir()] == ["net"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ArtifactError, match="something else"):
        save((model, plan), tmp_path / "mine", build=CHAIN)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    with pytest.raises(ArtifactError):
        save((model, plan), tmp_path / "net", build=toys.Residual)
    assert same_bits(load(tmp_path / "net"), model)


def test_a_folder_can_be_moved(tmp_path):
    model, plan = cut_chain()
    shutil.move(save((model, plan), tmp_path / "a", build=CHAIN), tmp_path / "b")
    assert same_bits(load(tmp_path / "b"), model)


def test_extra_state_is_refused(tmp_path):
    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"secret": 1}

        def set_extra_state(self, state):
            pass

    with pytest.raises(ArtifactError, match="extra state"):
        save((Extra(2, 2), None), tmp_path / "net", build=lambda: Extra(2, 2))
    assert not list(tmp_path.iterdir())
