"""MODEL strings: what each means, and what is said where it means nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from torchbonsai.core.errors import ConfigError
from torchbonsai.models import ModelConfig, build
from torchbonsai.models.libraries import LIBRARIES
from torchbonsai.models.sources import built_shape, default_shape, find_builder, library_of
from torchbonsai.models.zoo import ZOO


def same(one: nn.Module, two: nn.Module) -> bool:
    a, b = one.state_dict(), two.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", sorted(ZOO))
def test_every_network_of_the_zoo_runs_on_its_default_shape(name: str) -> None:
    shape = default_shape(name)
    assert shape is not None
    model = build(ModelConfig(name, in_shape=shape), seed=0).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, *shape)).shape == (1, 10)


def test_a_prefix_decides_and_a_module_of_a_library_is_a_factory() -> None:
    assert library_of("timm:resnet18") == (LIBRARIES["timm"], "resnet18")
    assert library_of("timm.models:resnet18") is None
    assert library_of("resnet20") is None
    assert default_shape("timm:resnet18") is None
    assert built_shape("resnet20", nn.Identity()) is None


def test_a_factory_says_its_shape_by_a_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shaped_nets.py").write_text(
        "def sized(in_shape=(3, 24, 24), classes=5): ...\ndef unsized(in_shape): ...\ndef plain(): ...\n"
    )
    monkeypatch.chdir(tmp_path)
    assert default_shape("shaped_nets:sized") == (3, 24, 24)
    assert default_shape("shaped_nets:unsized") is None
    assert default_shape("shaped_nets:plain") is None


@pytest.mark.parametrize(
    ("model", "package", "line"),
    [
        ("timm:resnet18", "timm", "pip install timm"),
        ("torchvision:resnet18", "torchvision", "pip install torchvision"),
        ("hf:owner/name", "huggingface_hub", "pip install huggingface_hub"),
    ],
)
def test_a_missing_library_gives_its_install_line(
    model: str, package: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=line):
        build(ModelConfig(model))


def test_a_library_that_cannot_be_imported_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(ConfigError, match="nms does not exist"):
        find_builder("timm:resnet18")


@pytest.mark.parametrize("name", ["resnet2O", "resnet2", "nothing_like_it"])
def test_an_unknown_name_lists_the_zoo_and_the_prefixes(name: str) -> None:
    with pytest.raises(ConfigError) as raised:
        find_builder(name)
    assert "timm:NAME" in str(raised.value)
    assert ("resnet20" in str(raised.value).partition("way out")[0]) == (name != "nothing_like_it")


def test_timm_by_name(timm: ModuleType) -> None:
    model = build(ModelConfig("timm:resnet10t"), seed=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        assert same(model, timm.create_model("resnet10t"))
    assert built_shape("timm:resnet10t", model) == (3, 176, 176)
    assert build(ModelConfig("timm:resnet10t", options=(("num_classes", 7),)), seed=0).fc.out_features == 7
    with pytest.raises(ConfigError, match="timm:resnet18"):
        build(ModelConfig("timm:resnt18"))
    with pytest.raises(ConfigError, match="no_such_option"):
        build(ModelConfig("timm:resnet10t", options=(("no_such_option", 7),)))


def test_torchvision_by_name(torchvision: ModuleType) -> None:
    model = build(ModelConfig("torchvision:squeezenet1_1"), seed=0)
    assert type(model) is torchvision.models.SqueezeNet
    assert built_shape("torchvision:squeezenet1_1", model) == (3, 224, 224)
    assert built_shape("torchvision:inception_v3", model) == (3, 299, 299)
    assert built_shape("torchvision:r3d_18", model) == (3, 16, 112, 112)
    with pytest.raises(ConfigError, match="torchvision:squeezenet1_1"):
        build(ModelConfig("torchvision:squeezenet11"))


def test_a_backbone_is_built_without_a_download(torchvision: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", None)
    assert "backbone.0.0.weight" in build(ModelConfig("torchvision:lraspp_mobilenet_v3_large"), seed=0).state_dict()


@pytest.mark.parametrize("name", ["squeezenet1_1", "googlenet"])
def test_the_structure_of_trained_networks_can_be_built_without_weights(
    name: str, torchvision: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = torchvision.models.get_model(name, **({"init_weights": False} if name == "googlenet" else {}))
    enum = torchvision.models.get_model_weights(name)
    monkeypatch.setattr(enum, "get_state_dict", lambda self, **_: whole.state_dict())
    library = LIBRARIES["torchvision"]
    trained = library.pretrained(name)
    again = build(ModelConfig(f"torchvision:{name}", options=tuple(library.structure(name).items())), seed=0)
    again.load_state_dict(trained.state_dict(), strict=True)
    x = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    assert torch.equal(trained.eval()(x), again.eval()(x))


def test_a_hub_repository_of_timm(timm: ModuleType, tmp_path: Path) -> None:
    """A local folder of a repository's files goes the same way as an id."""
    config = {"architecture": "resnet10t", "num_classes": 6, "pretrained_cfg": {"input_size": [3, 64, 64]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = build(ModelConfig(f"hf:{tmp_path}"), seed=0)
    assert model.fc.out_features == 6
    assert built_shape(f"hf:{tmp_path}", model) == (3, 64, 64)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert same(LIBRARIES["hf"].pretrained(str(tmp_path)), model)


class Described(nn.Conv2d):
    """As transformers' classes are: made from a configuration, which from_pretrained reads."""

    class config_class(SimpleNamespace):
        @classmethod
        def from_pretrained(cls, folder: str, **options: object) -> Described.config_class:
            return cls(**json.loads((Path(folder) / "config.json").read_text()), **options)

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__(config.num_channels, 2, 3)
        self.config = config


def test_a_hub_repository_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(Described=Described))
    description = {"model_type": "x", "architectures": ["Gone", "Described"], "num_channels": 4, "image_size": 40}
    (tmp_path / "config.json").write_text(json.dumps(description))
    model = build(ModelConfig(f"hf:{tmp_path}"), seed=0)
    assert type(model) is Described
    assert built_shape(f"hf:{tmp_path}", model) == (4, 40, 40)
    (tmp_path / "config.json").write_text(json.dumps({**description, "architectures": ["Gone"]}))
    with pytest.raises(ConfigError, match="Gone"):
        build(ModelConfig(f"hf:{tmp_path}"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="without 'architecture'"):
        build(ModelConfig(f"hf:{tmp_path}"))
