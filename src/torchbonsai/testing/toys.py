"""Small networks with channel graphs written by hand: every number can be worked out on paper.

They do not depend on the tracer, so they test it (a trace must find the same) and everything that stands on a graph.
All sizes are different primes where the architecture allows it, so that a mixed-up axis cannot pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchbonsai.graph.channel_graph import FROZEN, Binding, ChannelGraph, ChannelGroup, Frozen, Ints, Product, Site

Index = Sequence[int] | Ints
GroupSpec = Mapping[str, tuple[int, Sequence[tuple[str, int, str, Index | None]]]]
"""Group name -> (size, bindings as (tensor name, axis, role, index or None for 0 … size - 1))."""


@dataclass(frozen=True)
class Toy:
    """A model in eval mode, its graph, and example inputs (2 pictures of 3 channels)."""

    model: nn.Module
    graph: ChannelGraph
    inputs: Tensor


class Chain(nn.Module):
    """conv 3→5, norm, ReLU, max-pool, conv 5→7, ReLU, flatten, linear 28→3, on 4x4 pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.conv2, self.fc = nn.Conv2d(5, 7, 3, padding=1), nn.Linear(28, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(b, 3, 4, 4) -> (b, 3)."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        return self.fc(F.relu(self.conv2(x)).flatten(1))


class Residual(nn.Module):
    """stem 3→5, ReLU; a 5→7, ReLU, b 7→5, added to the stem's; ReLU, mean, linear 5→3."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 5, 3, padding=1), nn.Linear(5, 3)
        self.a, self.b = nn.Conv2d(5, 7, 3, padding=1), nn.Conv2d(7, 5, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(b, 3, 4, 4) -> (b, 3)."""
        x = F.relu(self.stem(x))
        return self.head(F.relu(x + self.b(F.relu(self.a(x)))).mean((2, 3)))


class Depthwise(nn.Module):
    """expand 3→6, ReLU, depthwise 6, ReLU, project 6→5 without an activation, mean, linear 5→3."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.dw = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.project, self.head = nn.Conv2d(6, 5, 1), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(b, 3, 4, 4) -> (b, 3)."""
        x = F.relu(self.dw(F.relu(self.expand(x))))
        return self.head(self.project(x).mean((2, 3)))


class Awkward(nn.Module):
    """Channels read without a plain weight: stem 3→5, ReLU; tanh(w) 5→7, norm, ReLU; q and k 7→6, multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.w = nn.Conv2d(3, 5, 3, padding=1), nn.Parameter(torch.randn(7, 5, 1, 1))
        self.bn, self.q, self.k = nn.BatchNorm2d(7), nn.Linear(7, 6), nn.Linear(7, 6)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(b, 3, 4, 4) -> (b, 3)."""
        x = F.relu(self.bn(F.conv2d(F.relu(self.stem(x)), torch.tanh(self.w))))
        tokens = x.flatten(2).transpose(1, 2)
        return self.head((self.q(tokens) @ self.k(tokens).transpose(1, 2)).mean(1))


def awkward(seed: int = 0) -> nn.Module:
    """Its graph is left to the tracer."""
    return _seeded(Awkward, seed)


def chain(seed: int = 0) -> Toy:
    """Two groups in a row; the second is read by a linear layer through a flatten (4 places a channel)."""
    model = _seeded(Chain, seed)
    flat = np.repeat(np.arange(7), 4)
    groups: GroupSpec = {
        "conv1": (
            5,
            [
                ("conv1.weight", 0, "produces", None),
                *((name, 0, "follows", None) for name in ("conv1.bias", "bn1.weight", "bn1.bias")),
                *((name, 0, "follows", None) for name in ("bn1.running_mean", "bn1.running_var")),
                ("conv2.weight", 1, "consumes", None),
            ],
        ),
        "conv2": (
            7,
            [
                ("conv2.weight", 0, "produces", None),
                ("conv2.bias", 0, "follows", None),
                ("fc.weight", 1, "consumes", flat),
            ],
        ),
    }
    one, two = np.arange(5), np.arange(5, 12)
    products = (
        Product("aten.convolution.default", "conv1", 2 * 16 * 9 * 3, (one,)),
        Product("aten.convolution.default", "conv2", 2 * 4 * 9, (one, two)),
        Product("aten.addmm.default", "fc", 2 * 3, (5 + flat,)),
    )
    sites = (Site(3, "aten.relu.default", "", 1, one), Site(6, "aten.relu.default", "", 1, two))
    return _toy(model, groups, products, sites, _ends("conv1", "fc"))


def residual(seed: int = 0) -> Toy:
    """A stream that two convolutions write to ("stem", 5 atoms), and an inner group ("a", 7 atoms)."""
    model = _seeded(Residual, seed)
    groups: GroupSpec = {
        "stem": (
            5,
            [
                ("stem.weight", 0, "produces", None),
                ("stem.bias", 0, "follows", None),
                ("a.weight", 1, "consumes", None),
                ("b.weight", 0, "produces", None),
                ("head.weight", 1, "consumes", None),
            ],
        ),
        "a": (
            7,
            [
                ("a.weight", 0, "produces", None),
                ("a.bias", 0, "follows", None),
                ("b.weight", 1, "consumes", None),
            ],
        ),
    }
    stream, inner = np.arange(5), np.arange(5, 12)
    products = (
        Product("aten.convolution.default", "stem", 2 * 16 * 9 * 3, (stream,)),
        Product("aten.convolution.default", "a", 2 * 16 * 9, (stream, inner)),
        Product("aten.convolution.default", "b", 2 * 16, (inner, stream)),
        Product("aten.addmm.default", "head", 2 * 3, (stream,)),
    )
    relu = "aten.relu.default"
    sites = (Site(1, relu, "", 1, stream), Site(3, relu, "", 1, inner), Site(6, relu, "", 1, stream))
    return _toy(model, groups, products, sites, _ends("stem", "head"))


def depthwise(seed: int = 0) -> Toy:
    """ "expand" (6 atoms, a depthwise convolution follows it) and "project" (5 atoms, no activation, hence no site)."""
    model = _seeded(Depthwise, seed)
    groups: GroupSpec = {
        "expand": (
            6,
            [
                ("expand.weight", 0, "produces", None),
                *((name, 0, "follows", None) for name in ("expand.bias", "dw.weight", "dw.bias")),
                ("project.weight", 1, "consumes", None),
            ],
        ),
        "project": (
            5,
            [
                ("project.weight", 0, "produces", None),
                ("project.bias", 0, "follows", None),
                ("head.weight", 1, "consumes", None),
            ],
        ),
    }
    wide, narrow = np.arange(6), np.arange(6, 11)
    products = (
        Product("aten.convolution.default", "expand", 2 * 16 * 3, (wide,)),
        Product("aten.convolution.default", "dw", 2 * 16 * 9, (wide,)),
        Product("aten.convolution.default", "project", 2 * 16, (wide, narrow)),
        Product("aten.addmm.default", "head", 2 * 3, (narrow,)),
    )
    relu = "aten.relu.default"
    sites = (Site(1, relu, "", 1, wide), Site(3, relu, "", 1, wide))
    return _toy(model, groups, products, sites, _ends("expand", "head"))


def toys() -> dict[str, Toy]:
    """All of them, by name."""
    return {"chain": chain(), "residual": residual(), "depthwise": depthwise()}


def graph_of(
    model: nn.Module,
    groups: GroupSpec,
    products: tuple[Product, ...] = (),
    sites: tuple[Site, ...] = (),
    frozen: tuple[Frozen, ...] = (),
) -> ChannelGraph:
    """A channel graph from hand-written bindings; `axes` follow from them."""
    shapes = {name: tuple(t.shape) for name, t in (*model.named_parameters(), *model.named_buffers())}
    made: list[ChannelGroup] = []
    axes: dict[str, dict[int, Ints]] = {}
    for name, (size, specs) in groups.items():
        offset = sum(group.size for group in made)
        bindings = []
        for tensor, axis, role, index in specs:
            where = np.asarray(range(size) if index is None else index, dtype=np.int64)
            bindings.append(Binding(tensor, axis, role, where))  # type: ignore[arg-type]  # a role is a literal above
            atoms = axes.setdefault(tensor, {}).setdefault(axis, np.full(shapes[tensor][axis], FROZEN))
            atoms[where != FROZEN] = offset + where[where != FROZEN]
        made.append(ChannelGroup(name, size, offset, tuple(bindings)))
    parameters = frozenset(name for name, _ in model.named_parameters())
    return ChannelGraph(tuple(made), frozen, shapes, axes, parameters, products, sites)


def _seeded(build: type[nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().eval()


def _ends(first: str, last: str) -> tuple[Frozen, ...]:
    return (
        Frozen("input", 3, "the model's input", None, (f"{first}.weight 1",)),
        Frozen("output", 3, "the model's output", None, (f"{last}.weight 0", f"{last}.bias 0")),
    )


def _toy(
    model: nn.Module,
    groups: GroupSpec,
    products: tuple[Product, ...],
    sites: tuple[Site, ...],
    frozen: tuple[Frozen, ...],
) -> Toy:
    inputs = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return Toy(model, graph_of(model, groups, products, sites, frozen), inputs)
