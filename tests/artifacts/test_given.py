"""`given_model`: names, folders, weights and shapes; every contradiction is one error."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from torchbonsai.artifacts import save
from torchbonsai.artifacts.given import given_model, parse_shape
from torchbonsai.artifacts.inputs import as_inputs, describe, random_example
from torchbonsai.core.errors import ArtifactError, ConfigError, DataError
from torchbonsai.models import ModelConfig, build
from torchbonsai.pruning.prune import prune
from torchbonsai.selection.budget import Budget

NETS = """
from torch import nn

def sized(in_shape=(2, 6, 6), classes=4):
    return nn.Sequential(nn.Conv2d(in_shape[0], 5, 3), nn.ReLU(), nn.Flatten(),
                         nn.Linear(5 * (in_shape[1] - 2) * (in_shape[2] - 2), classes))

def unsized():
    return nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3))
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "given_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    return "given_nets"


def test_a_network_of_the_zoo_has_random_weights_and_inputs_of_a_seed() -> None:
    one, again, other = (given_model("lenet", seed=s) for s in (1, 1, 2))
    assert one.inputs.shape == (1, 1, 28, 28)
    assert torch.equal(one.inputs, again.inputs)
    assert torch.equal(one.model.conv1.weight, again.model.conv1.weight)
    assert not torch.equal(one.model.conv1.weight, other.model.conv1.weight)
    assert not torch.equal(one.inputs, other.inputs)
    assert not one.model.training
    assert one.build == ModelConfig("lenet", in_shape=(1, 28, 28))
    assert "random" in one.weights


def test_shapes_and_classes_reach_the_factory(nets: str) -> None:
    assert given_model(f"{nets}:sized").inputs.shape == (1, 2, 6, 6)
    given = given_model(f"{nets}:sized", inputs=["2,3,8,8"], classes=9)
    assert given.inputs.shape == (2, 3, 8, 8)
    assert given.model(given.inputs).shape == (2, 9)
    assert build(given.build, seed=0)(given.inputs).shape == (2, 9)
    assert given_model(f"{nets}:unsized", inputs=["4x7"]).inputs.shape == (4, 7)
    assert [t.shape for t in given_model(f"{nets}:unsized", inputs=["4,7", "1"]).inputs] == [(4, 7), (1,)]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "given_nets:unsized"}, "--input 1,3,224,224"),
        ({"name": "given_nets:unsized", "classes": 3}, "parameter 'classes'"),
        ({"name": "lenet", "pretrained": True}, "trained weights"),
        ({"name": "timm:x", "pretrained": True, "weights": "w.pt"}, "leave one of them out"),
        ({"name": "hf:x/y", "classes": 3}, "factory of your own"),
        ({"name": "lenet", "inputs": ["1,28;28"]}, "1,28;28"),
        ({"name": "lenet", "inputs": ["0,1,28,28"]}, "batch first"),
    ],
)
def test_contradictions(nets: str, settings: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        given_model(**settings)


def test_weights_are_loaded_strictly(tmp_path: Path) -> None:
    source = build(ModelConfig("lenet", (1, 28, 28)), seed=9)
    save_file(source.state_dict(), tmp_path / "lenet.safetensors")
    given = given_model("lenet", weights=tmp_path / "lenet.safetensors")
    assert torch.equal(given.model.fc1.weight, source.fc1.weight)
    with pytest.raises(DataError, match="of this model"):
        given_model("resnet20", weights=tmp_path / "lenet.safetensors")
    with pytest.raises(DataError, match="must be a file"):
        given_model("lenet", weights=tmp_path / "none.safetensors")


def test_a_saved_folder_brings_weights_inputs_and_plan(nets: str, tmp_path: Path) -> None:
    given = given_model(f"{nets}:sized", inputs=["1,2,9,9"], seed=4)
    result = prune(given.model, given.inputs, budget=Budget(channels=0.6))
    folder = str(save(result, tmp_path / "small", build=given.build, inputs=given.inputs))
    again = given_model(folder)
    assert again.inputs.shape == (1, 2, 9, 9)
    assert torch.equal(again.model(given.inputs), result.model(given.inputs))
    assert again.plan is not None
    assert again.plan.to_json() == result.plan.to_json()
    for wrong in ({"pretrained": True}, {"weights": "w.pt"}, {"classes": 4}):
        with pytest.raises(ConfigError, match="brings its own"):
            given_model(folder, **wrong)
    without = str(save(result, tmp_path / "without", build=given.build))
    assert given_model(without).inputs.shape == (1, 2, 9, 9)  # the factory's in_shape


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no artifact\.json"):
        given_model(str(tmp_path))


def test_described_inputs_come_back_with_another_batch() -> None:
    x, index = torch.randn(2, 3, 4), torch.tensor([1, 2])
    described = describe({"x": x, "more": (index, [torch.zeros(5, dtype=torch.float64)], {"k": None}), "flag": True})
    args, kwargs = random_example(described, batch=7)
    assert args == ()
    assert kwargs["x"].shape == (7, 3, 4)
    assert kwargs["x"].std() > 0.5
    assert kwargs["flag"] is True
    ids, inner, rest = kwargs["more"]
    assert (ids.shape, ids.dtype, ids.any().item()) == ((7,), torch.int64, False)
    assert (inner[0].shape, inner[0].dtype) == ((5,), torch.float64)
    assert rest == {"k": None}
    assert as_inputs((args, kwargs)) is kwargs
    with pytest.raises(ArtifactError, match="plain values"):
        describe((x, object()))
    with pytest.raises(ArtifactError, match="which inputs"):
        random_example({"args": [{"shape": "?"}]})


def test_parse_shape() -> None:
    assert parse_shape("1x3x32x32") == parse_shape("1,3,32,32") == (1, 3, 32, 32)
    for wrong in ("", "1,", "-1,3", "1.5", "999999999,9999"):
        with pytest.raises(ConfigError):
            parse_shape(wrong)
