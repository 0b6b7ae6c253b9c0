"""Building from plain data: seeds, the user's own factories, and every way in which they can fail."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from torchbonsai.core.config import canonical_json
from torchbonsai.core.errors import ConfigError
from torchbonsai.models import ModelConfig, build, names, takes_width

FACTORIES = """
import torch
from torch import nn

def plain():
    return nn.Linear(3, 2)

def wide(in_shape, classes, width=1.0):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_shape[0], max(1, int(8 * width))), nn.Linear(8, classes))

def anything(**options):
    return nn.Linear(options["inputs"], 2).double()

def raises():
    raise KeyError("no such layer")

def nothing():
    return None

class Holder:
    @staticmethod
    def make():
        return nn.Linear(2, 2)
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the working directory, as a user of the console script has it."""
    (tmp_path / "my_factories.py").write_text(FACTORIES)
    (tmp_path / "my_broken.py").write_text("import torch\nraise RuntimeError('half written')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    monkeypatch.delitem(sys.modules, "my_factories", raising=False)
    return "my_factories"


def test_same_seed_same_weights_and_global_state_untouched() -> None:
    torch.manual_seed(123)
    before = torch.get_rng_state()
    first, again, other = (build(ModelConfig("lenet", (1, 28, 28)), seed=s) for s in (5, 5, 6))
    unseeded = [build(ModelConfig("lenet", (1, 28, 28))) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.conv1.weight, again.conv1.weight)
    assert not torch.equal(first.conv1.weight, other.conv1.weight)
    assert torch.equal(unseeded[0].conv1.weight, unseeded[1].conv1.weight)


def test_a_config_is_plain_data() -> None:
    text = canonical_json(ModelConfig("resnet20", widths=(4, 8, 16), options=(("shortcut", "B"),)))
    assert '"type":"ModelConfig"' in text
    assert '"widths":[4,8,16]' in text


def test_own_factories(factories: str) -> None:
    path = list(sys.path)
    assert build(ModelConfig(f"{factories}:plain")).weight.shape == (2, 3)
    wide = build(ModelConfig(f"{factories}:wide", (6, 1, 1), 4, width=0.5), seed=1)
    assert (wide[1].in_features, wide[1].out_features, wide[2].out_features) == (6, 4, 4)
    options = (("inputs", 5),)
    assert build(ModelConfig(f"{factories}:anything", options=options)).weight.dtype == torch.float32
    assert build(ModelConfig(f"{factories}:Holder.make")).weight.shape == (2, 2)
    assert sys.path == path


def test_takes_width(factories: str) -> None:
    assert all(takes_width(name) for name in names())
    assert takes_width(f"{factories}:wide")
    assert not takes_width(f"{factories}:plain")
    assert not takes_width(f"{factories}:anything")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (ModelConfig("resnet19"), "resnet110"),
        (ModelConfig("resnet"), "package.module:factory"),
        (ModelConfig("my_factories:plain", width=0.5), "width"),
        (ModelConfig("my_factories:plain", widths=(3,)), "widths"),
        (ModelConfig("my_factories:anything", width=0.5), "width"),
        (ModelConfig("my_factories:plain", options=(("depth", 3),)), "depth"),
        (ModelConfig("my_factories:raises"), "no such layer"),
        (ModelConfig("my_factories:anything"), "KeyError"),
        (ModelConfig("my_factories:nothing"), "NoneType"),
        (ModelConfig("my_factories:missing"), "missing"),
        (ModelConfig("my_broken:make"), "half written"),
        (ModelConfig("no_such_package_here:make"), "no_such_package_here"),
    ],
)
def test_what_cannot_be_built_is_one_clear_error(factories: str, config: ModelConfig, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        build(config)
    assert "way out" in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [{"width": 0.0}, {"width": float("nan")}, {"classes": 0}, {"in_shape": (1, 3, 32, 32)}, {"in_shape": (0, 1, 1)}],
)
def test_a_config_that_means_nothing(settings: dict) -> None:
    with pytest.raises(ConfigError):
        ModelConfig("mlp", **settings)
