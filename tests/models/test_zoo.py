"""The zoo: sizes against published or hand-worked numbers, widths, and what is particular to each network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from torchbonsai.core.errors import ConfigError
from torchbonsai.models import ModelConfig, build, names
from torchbonsai.models.lenet import LeNet
from torchbonsai.models.resnet import PadShortcut
from torchbonsai.models.shufflenet_small import channel_shuffle
from torchbonsai.models.vgg import vgg

GREY28, COLOUR32 = (1, 28, 28), (3, 32, 32)
SHAPES = {"mlp": GREY28, "lenet": GREY28, "bonsai_small": (1, 14, 14)}
QUICK = [n for n in names() if n not in ("resnet110", "resnet44", "vgg13", "vgg19", "vgg13_bn", "vgg19_bn", "vgg11")]


def shape_of(name: str) -> tuple[int, int, int]:
    return SHAPES.get(name, COLOUR32)


def params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def macs(model: nn.Module, shape: tuple[int, int, int]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, *shape))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("name", "shape", "options", "expected"),
    [
        ("mlp", GREY28, {}, 784 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10),
        ("lenet", GREY28, {}, 431_080),
        ("vgg16_bn", COLOUR32, {}, 14_724_042),
        ("resnet20", COLOUR32, {}, 269_722),
        ("resnet56", COLOUR32, {}, 853_018),
        ("resnet56", COLOUR32, {"shortcut": "B"}, 853_018 + 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64),
        ("densenet_bc100", COLOUR32, {}, 769_162),
        ("mobilenet_v2", COLOUR32, {}, 3_504_872 - 1281 * 990),
    ],
)
def test_published_parameters(name: str, shape: tuple[int, int, int], options: dict, expected: int) -> None:
    assert params(build(ModelConfig(name, shape, options=tuple(options.items())), seed=0)) == expected


def test_densenet40_against_the_sum_over_its_layers() -> None:
    k, channels, total = 12, 16, 3 * 16 * 9
    for block in range(3):
        for _ in range(12):
            total += 2 * channels + channels * k * 9
            channels += k
        if block < 2:
            total += 2 * channels + channels * channels
    total += 2 * channels + channels * 10 + 10
    assert params(build(ModelConfig("densenet40"), seed=0)) == total


@pytest.mark.parametrize(
    ("name", "expected"), [("vgg16_bn", 313_201_664), ("resnet56", 125_485_696), ("resnet20", 40_551_040)]
)
def test_published_macs(name: str, expected: int) -> None:
    assert macs(build(ModelConfig(name), seed=0), COLOUR32) == expected


def test_vgg16_of_the_paper_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = vgg((3, 224, 224), 1000, depth=16, batch_norm=False, head="4096")
        assert model(torch.empty(2, 3, 224, 224)).shape == (2, 1000)
    assert params(model) == 138_357_544


@pytest.mark.parametrize("name", QUICK)
def test_every_network_at_two_widths(name: str) -> None:
    shape = shape_of(name)
    full, half = (build(ModelConfig(name, shape, 7, width=w), seed=0).eval() for w in (1.0, 0.5))
    with torch.no_grad():
        for model in (full, half):
            assert model(torch.randn(2, *shape)).shape == (2, 7)
    assert params(half) < 0.5 * params(full)
    assert all(p.dtype == torch.float32 for p in full.parameters())


@pytest.mark.parametrize("name", QUICK)
def test_a_training_step_reaches_every_parameter(name: str) -> None:
    shape = shape_of(name)
    model = build(ModelConfig(name, shape, 3, width=0.25), seed=0).train()
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    nn.functional.cross_entropy(model(x), torch.tensor([0, 1, 2, 0])).backward()
    unreached = [k for k, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert unreached == []


@pytest.mark.parametrize("name", QUICK)
def test_an_image_is_classified_alike_alone_and_in_a_batch(name: str) -> None:
    """The hard-coded views and shuffles mix no images."""
    shape = shape_of(name)
    model = build(ModelConfig(name, shape, 3, width=0.25), seed=0).eval().double()
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(model(x)[1], model(x[1:2])[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "widths", "sizes"),
    [
        ("mlp", (7, 5, 3), {"body.0.weight": (7, 784), "body.4.weight": (3, 5), "head.weight": (10, 3)}),
        ("lenet", (3, 5, 7), {"conv2.weight": (5, 3, 5, 5), "fc1.weight": (7, 5 * 16)}),
        ("bonsai_small", (3, 5, 7, 11), {"features.3.weight": (5, 3, 3, 3), "head.weight": (10, 11)}),
        ("vgg11_bn", (2, 3, 5, 7, 11, 13, 17, 19), {"features.4.weight": (3, 2, 3, 3), "classifier.weight": (10, 19)}),
        ("resnet20", (8, 12, 20), {"layer2.0.conv1.weight": (12, 8, 3, 3), "linear.weight": (10, 20)}),
        ("resnet20", (8, 12, 20, *range(2, 11)), {"layer2.0.conv1.weight": (5, 8, 3, 3)}),
        ("mobilenet_v2", (3, 4, 5, 6, 7, 8, 9, 10, 11), {"features.1.conv.0.0.weight": (3, 1, 3, 3)}),
        ("densenet40", (5, 2, 3, 4), {"stem.weight": (5, 3, 3, 3), "head.weight": (10, 5 + 12 * (2 + 3 + 4))}),
        ("shufflenet_small", (5, 6, 14), {"stem.0.weight": (5, 3, 3, 3), "last.0.weight": (64, 14, 1, 1)}),
    ],
)
def test_explicit_widths(name: str, widths: tuple[int, ...], sizes: dict[str, tuple[int, ...]]) -> None:
    shape = shape_of(name)
    model = build(ModelConfig(name, shape, width=3.0, widths=widths), seed=0)  # widths wins over width
    found = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    assert {k: found[k] for k in sizes} == sizes
    assert model.eval()(torch.zeros(1, *shape)).shape == (1, 10)


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("lenet", (1, 2)), ("lenet", (1, 2, 0)), ("mlp", (1.5,)), ("resnet20", (1, 2, 3, 4)),
        ("resnet20", (16, 8, 8)), ("shufflenet_small", (8, 7, 8)), ("bonsai_small", (True, 1, 1, 1)),
    ],
)  # fmt: skip
def test_widths_that_do_not_fit(name: str, widths: tuple) -> None:
    with pytest.raises(ConfigError, match="width"):
        build(ModelConfig(name, shape_of(name), widths=widths))


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("resnet20", COLOUR32, {"shortcut": "C"}),
        ("vgg16_bn", COLOUR32, {"head": "512"}),
        ("vgg16_bn", COLOUR32, {"dropout": 0.1}),
        ("mobilenet_v2", COLOUR32, {"strides": "large"}),
        ("shufflenet_small", (3, 64, 64), {}),
        ("lenet", (1, 3, 3), {}),
        ("mlp", GREY28, {"shortcut": "A"}),
    ],
)
def test_options_that_do_not_fit(name: str, shape: tuple[int, int, int], options: dict) -> None:
    with pytest.raises(ConfigError):
        build(ModelConfig(name, shape, options=tuple(options.items())))


def test_lenet_on_small_images_keeps_a_map_of_3x3() -> None:
    model = build(ModelConfig("lenet", (1, 14, 14)), seed=0)
    assert isinstance(model, LeNet)
    assert model.fc1.in_features == 50 * 3 * 3
    assert model(torch.zeros(2, 1, 14, 14)).shape == (2, 10)


def test_vgg_head_4096_on_small_images() -> None:
    model = build(ModelConfig("vgg11_bn", options=(("head", "4096"),), width=0.125), seed=0)
    assert [m.out_features for m in model.modules() if isinstance(m, nn.Linear)] == [512, 512, 10]
    assert model.eval()(torch.zeros(1, *COLOUR32)).shape == (1, 10)


def test_pad_shortcut_is_the_published_one() -> None:
    x = torch.randn(2, 3, 5, 7)
    y = PadShortcut(1, 2, 2)(x)
    assert y.shape == (2, 6, 3, 4)
    assert torch.equal(y[:, 1:4], x[:, :, ::2, ::2])
    assert not y[:, :1].any()
    assert not y[:, 4:].any()


def test_channel_shuffle_interleaves_the_halves() -> None:
    x = torch.arange(6.0).view(1, 6, 1, 1)
    assert channel_shuffle(x).flatten().tolist() == [0, 3, 1, 4, 2, 5]


def test_residual_blocks_start_as_published_names() -> None:
    keys = build(ModelConfig("resnet20"), seed=0).state_dict().keys()
    assert {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer3.2.bn2.bias", "linear.bias"} <= set(keys)
    assert not [k for k in keys if "shortcut" in k]


@pytest.mark.parametrize("depth", [20, 32, 44, 56])
def test_trained_weights_fit_name_for_name(depth: int) -> None:
    folder = os.environ.get("TORCHBONSAI_DATA")
    if not folder:
        pytest.skip("TORCHBONSAI_DATA is not set: no trained weights here")
    content = torch.load(
        next(Path(folder, "weights").glob(f"resnet{depth}-*.th")), weights_only=True, map_location="cpu"
    )
    tensors = {k.removeprefix("module."): tuple(v.shape) for k, v in content["state_dict"].items()}
    own = {k: tuple(v.shape) for k, v in build(ModelConfig(f"resnet{depth}")).state_dict().items()}
    assert {k: v for k, v in own.items() if "num_batches" not in k} == {
        k: v for k, v in tensors.items() if "num_batches" not in k
    }
