"""Exact MACs and parameters, against numbers worked out by hand and against torch's own counter."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from torchbonsai.cost.macs import Cost, CostModel, cost_of
from torchbonsai.graph.channel_graph import ChannelGraph, ChannelGroup, Product
from torchbonsai.testing import toys


def test_chain_by_hand():
    graph = toys.chain().graph
    # conv1: 2 pictures * 16 places * 9 taps * 3 in * 5 out; conv2: 2 * 4 * 9 * 5 * 7; fc: 2 * 28 * 3
    macs = 2 * 16 * 9 * 3 * 5 + 2 * 4 * 9 * 5 * 7 + 2 * 28 * 3
    params = (5 * 3 * 9 + 5) + (5 + 5) + (7 * 5 * 9 + 7) + (3 * 28 + 3)
    assert CostModel(graph).dense == Cost(macs=macs, params=params, channels=12)


def test_chain_narrowed_by_hand():
    graph = toys.chain().graph
    kept = graph.keep({"conv1": np.array([1, 0, 1, 0, 0], bool), "conv2": np.array([1, 1, 0, 0, 0, 0, 1], bool)})
    macs = 2 * 16 * 9 * 3 * 2 + 2 * 4 * 9 * 2 * 3 + 2 * 12 * 3
    params = (2 * 3 * 9 + 2) + (2 + 2) + (3 * 2 * 9 + 3) + (3 * 12 + 3)
    assert cost_of(graph, kept) == Cost(macs, params, 5)
    assert CostModel(graph).macs_by_product(kept) == [2 * 16 * 9 * 3 * 2, 2 * 4 * 9 * 2 * 3, 2 * 12 * 3]
    assert sum(CostModel(graph).params_by_name(kept).values()) == params


def test_depthwise_counts_a_channel_once():
    graph = toys.depthwise().graph
    kept = graph.keep({"expand": np.array([1, 0, 0, 0, 0, 1], bool)})
    macs = 2 * 16 * 3 * 2 + 2 * 16 * 9 * 2 + 2 * 16 * 2 * 5 + 2 * 3 * 5
    assert cost_of(graph, kept).macs == macs


@pytest.mark.parametrize("name", ["chain", "residual", "depthwise"])
def test_dense_agrees_with_torch(name):
    toy = toys.toys()[name]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        toy.model(toy.inputs)
    dense = CostModel(toy.graph).dense
    assert 2 * dense.macs == counter.get_total_flops()
    assert dense.params == sum(p.numel() for p in toy.model.parameters())


def test_tied_parameters_count_once():
    model = nn.ModuleDict({"a": nn.Linear(3, 3, bias=False), "b": nn.Linear(3, 3, bias=False)})
    graph = ChannelGraph((), (), {"a.weight": (3, 3), "b.weight": (3, 3)}, {}, frozenset({"a.weight", "b.weight"}), ())
    assert CostModel(graph).dense.params == 18
    tied = ChannelGraph((), (), graph.shapes, {}, graph.parameters, (), aliases={"b.weight": "a.weight"})
    assert CostModel(tied).dense.params == 9
    assert sum(p.numel() for p in model.parameters()) == 18


def test_beyond_64_bits_is_exact():
    group = ChannelGroup("g", 2, 0, ())
    big = Product("mm", "g", 2**62 + 1, (np.array([0, 1, -1]), np.array([0, 1, -1])))
    graph = ChannelGraph((group,), (), {}, {}, frozenset(), (big,))
    assert CostModel(graph).dense.macs == (2**62 + 1) * 9


def test_wrong_mask_is_refused():
    with pytest.raises(ValueError, match="12"):
        CostModel(toys.chain().graph).of(np.ones(11, bool))


def test_a_big_graph_counts_as_a_plain_loop_does():
    sizes = np.full(500, 40)
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    groups = tuple(ChannelGroup(f"g{i}", 40, int(o), ()) for i, o in enumerate(offsets))
    extents = [np.arange(o, o + 40) for o in offsets]
    products = tuple(Product("mm", f"g{i}", 9, (extents[i - 1], extents[i])) for i in range(1, 500))
    shapes = {f"w{i}": (40, 40, 3, 3) for i in range(1, 500)}
    axes = {f"w{i}": {0: extents[i], 1: extents[i - 1]} for i in range(1, 500)}
    model = CostModel(ChannelGraph(groups, (), shapes, axes, frozenset(shapes), products))
    kept = np.random.default_rng(0).random(20_000) < 0.5
    widths = kept.reshape(500, 40).sum(1)
    pairs = sum(int(a) * int(b) for a, b in pairwise(widths))
    assert model.of(kept).macs == model.of(kept).params == 9 * pairs
