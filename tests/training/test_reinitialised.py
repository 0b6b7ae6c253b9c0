"""New weights at the widths of a cut: by the factory or by reset_parameters(), both are the network's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

import torchbonsai as tb
from torchbonsai.models import ModelConfig, build, names
from torchbonsai.models.sources import default_shape
from torchbonsai.training.policy import reinitialise, reset_parameters

IN_ORDER = [n for n in names() if n != "shufflenet_small"]
"""Networks whose modules are made in the order in which they are listed, so that a seed gives each the same draws. The
other one has no initialisation of its own."""
HALF_OF = ["resnet20", "mobilenet_v2", "vgg16_bn", "densenet40"]


def of_zoo(name: str, **more: object) -> ModelConfig:
    shape = default_shape(name)
    assert shape is not None
    return ModelConfig(name, shape, **more)  # type: ignore[arg-type]


def same(one: nn.Module, other: nn.Module) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return list(left) == list(right) and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("name", IN_ORDER)
def test_a_network_of_the_zoo_is_remade_as_it_is_built(name: str) -> None:
    model = of_zoo(name, width=0.5)
    remade, built = build(model, seed=0), build(model, seed=1)
    assert not same(remade, built)
    reset_parameters(remade, 1)
    assert same(remade, built)


def test_a_shortcut_with_weights_is_remade_as_it_is_built() -> None:
    model = of_zoo("resnet20", options=(("shortcut", "B"),))
    remade = build(model, seed=0)
    reset_parameters(remade, 1)
    assert same(remade, build(model, seed=1))


@pytest.mark.parametrize("name", HALF_OF)
def test_a_cut_to_half_of_every_layer_is_remade_as_the_factory_at_half_the_width(name: str) -> None:
    """Not the factory, which takes other widths than one a layer (but for VGG), and yet its scale of every tensor."""
    model = of_zoo(name)
    dense, image = build(model, seed=0), torch.zeros(1, *model.in_shape)
    halves = {g.name: g.size // 2 for g in tb.trace(dense, image).groups}
    budget, criterion = tb.Budget(widths=halves), tb.criteria.Random(seed=0)
    small = tb.prune(dense, image, budget=budget, criterion=criterion, verify=False).model
    how = reinitialise(small, model, [*halves.values()], 5)
    assert how.startswith("factory at widths") == (name == "vgg16_bn")
    assert same(small, build(of_zoo(name, width=0.5), seed=5))


def test_a_layer_of_one_channel_is_remade_alike_both_ways() -> None:
    model = of_zoo("vgg16_bn", width=0.25)
    widths = [8, 1, 32, 32, 64, 1, 64, 128, 128, 128, 128, 16, 128]
    dense, image = build(model, seed=0), torch.zeros(1, *model.in_shape)
    wanted = dict(zip((g.name for g in tb.trace(dense, image).groups), widths, strict=True))
    small = tb.prune(dense, image, budget=tb.Budget(widths=wanted), verify=False).model
    built = build(of_zoo("vgg16_bn", widths=tuple(widths)), seed=5)
    assert reinitialise(small, model, widths, 5).startswith("factory at widths 8, 1, 32")
    assert same(small, built)
    assert reinitialise(small, model, [n for n in widths if n > 1], 6) == "reset_parameters() of every module"
    assert reinitialise(small, model, [n for n in widths if n > 1], 5) == "reset_parameters() of every module"
    assert same(small, built)


class Owner(nn.Module):
    """Says itself how its parts begin, after they did."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.value = value

    def reset_parameters(self) -> None:
        nn.init.constant_(self.layer.weight, self.value)


def test_the_whole_has_the_last_word_about_its_parts_and_leaves_draw_in_their_order() -> None:
    plain, owned = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), nn.Sequential(nn.Linear(4, 3), Owner(0.5))
    for network in (plain, owned):
        reset_parameters(network, 2)
    assert torch.equal(owned[0].weight, plain[0].weight)
    assert torch.equal(owned[1].layer.bias, plain[1].bias), "its own part was made anew first"
    assert bool((owned[1].layer.weight == 0.5).all())


def test_a_seed_is_one_of_the_device_that_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights on a GPU are drawn by its own generator, which the CPU's seed neither sets nor restores."""
    devices = []

    @contextmanager
    def recorded(seed: int, device: torch.device) -> Iterator[None]:
        devices.append(device.type)
        yield

    monkeypatch.setattr("torchbonsai.training.policy.seeded", recorded)
    for device in ("cpu", "meta"):
        reset_parameters(nn.Linear(4, 3, device=device), 2)
    assert devices == ["cpu", "meta"]
