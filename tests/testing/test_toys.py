"""The hand-written graphs and the tracer say the same, each a check of the other."""

import numpy as np
import pytest

import torchbonsai as tb
from torchbonsai.cost.macs import CostModel
from torchbonsai.testing.toys import toys


@pytest.fixture(params=["chain", "residual", "depthwise"])
def both(request):
    toy = toys()[request.param]
    return toy.graph, tb.trace(toy.model, toy.inputs)


def bindings(graph):
    return {g.name: sorted((b.name, b.axis, b.role, tuple(b.index.tolist())) for b in g.bindings) for g in graph.groups}


def test_groups_and_bindings(both):
    by_hand, traced = both
    assert [(g.name, g.size, g.offset) for g in traced.groups] == [(g.name, g.size, g.offset) for g in by_hand.groups]
    assert bindings(traced) == bindings(by_hand)


def test_sites(both):
    by_hand, traced = both
    expected = [(s.op_index, s.op, s.axis, s.atoms.tolist()) for s in by_hand.sites]
    assert [(s.op_index, s.op, s.axis, s.atoms.tolist()) for s in traced.sites] == expected


def test_costs_of_random_selections(both):
    by_hand, traced = (CostModel(graph) for graph in both)
    generator = np.random.default_rng(0)
    for _ in range(20):
        kept = generator.random(by_hand.graph.n_atoms) < 0.5
        assert traced.of(kept) == by_hand.of(kept)
