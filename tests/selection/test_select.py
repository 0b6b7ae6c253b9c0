"""Selections on the toys, with numbers worked out by hand."""

import numpy as np
import pytest
import torch

from torchbonsai.core.errors import BudgetError, ConfigError, PruningError
from torchbonsai.cost.macs import CostModel, cost_of
from torchbonsai.graph.channel_graph import Binding, ChannelGraph, ChannelGroup, Frozen, Source
from torchbonsai.selection.budget import Budget
from torchbonsai.selection.select import select
from torchbonsai.testing import toys


def plain_graph(*sizes, **more):
    """Groups g0, g1, … of these sizes, each one weight of one MAC a channel."""
    groups, axes, shapes, offset = [], {}, {}, 0
    for i, n in enumerate(sizes):
        groups.append(ChannelGroup(f"g{i}", n, offset, (Binding(f"g{i}.weight", 0, "produces", np.arange(n)),)))
        axes[f"g{i}.weight"] = {0: np.arange(offset, offset + n)}
        shapes[f"g{i}.weight"] = (n, 1)
        offset += n
    return ChannelGraph(tuple(groups), more.pop("frozen", ()), shapes, axes, frozenset(shapes), (), **more)


def increasing(graph):
    return {g.name: torch.arange(1.0, g.size + 1) for g in graph.groups}


def widths(selection):
    return [int(mask.sum()) for mask in selection.values()]


def test_uniform_channels_share_is_exact_in_every_group():
    graph = plain_graph(1, 2, 3, 4, 7, 64)
    for share, expected in ((0.5, [1, 1, 2, 2, 4, 32]), (0.25, [1, 1, 1, 1, 2, 16]), (1.0, [1, 2, 3, 4, 7, 64])):
        assert widths(select(graph, increasing(graph), Budget(channels=share), scope="uniform")) == expected


def test_global_channels_share_is_exact_in_all():
    graph = plain_graph(2, 3, 8)
    for share, total in ((0.5, 7), (0.25, 3), (1.0, 13), (0.8, 10)):  # floor(13 * share + 1/2)
        assert sum(widths(select(graph, increasing(graph), Budget(channels=share)))) == total


def test_best_stay_in_every_scope():
    graph = plain_graph(4)
    scores = {"g0": torch.tensor([3.0, 1.0, 4.0, 2.0])}
    for scope in ("global", "uniform"):
        assert select(graph, scores, Budget(channels=2), scope=scope)["g0"].tolist() == [True, False, True, False]


def test_ties_leave_in_order_of_group_and_channel():
    graph = plain_graph(3, 3)
    same = {g.name: torch.ones(g.size) for g in graph.groups}
    kept = select(graph, same, Budget(channels=4))
    assert kept["g0"].tolist() == [False, False, True]  # the floor holds the last one, then the next group's turn
    assert kept["g1"].tolist() == [True, True, True]
    kept = select(graph, same, Budget(channels=3))
    assert kept["g1"].tolist() == [False, True, True]


def test_normalise_divides_by_the_groups_mean():
    graph = plain_graph(2, 2)
    scores = {"g0": torch.tensor([1.0, 3.0]), "g1": torch.tensor([400.0, 100.0])}
    # Divided: 0.5, 1.5 | 1.6, 0.4: the smallest is g1's second. As given: g0's first.
    assert widths(select(graph, scores, Budget(channels=3))) == [2, 1]
    assert widths(select(graph, scores, Budget(channels=3), normalise=None)) == [1, 2]


def test_a_group_of_zeros_leaves_first_and_negative_scores_keep_their_order():
    graph = plain_graph(2, 2)
    assert widths(select(graph, {"g0": torch.ones(2), "g1": torch.zeros(2)}, Budget(channels=3))) == [2, 1]
    signed = {"g0": torch.tensor([-4.0, -1.0]), "g1": torch.ones(2)}
    assert select(graph, signed, Budget(channels=3))["g0"].tolist() == [False, True]


def test_macs_ceiling_uniform_by_hand():
    toy = toys.chain()
    # Widths (5, 7) cost 4320 + 2520 + 168 = 7008 MACs; half is 3504.
    # At s = 1/2 both round up: (3, 4) costs 2592 + 864 + 96 = 3552, too much. Just below, both round down:
    # (2, 3) costs 1728 + 432 + 72 = 2232.
    kept = select(toy.graph, increasing(toy.graph), Budget(macs=0.5), scope="uniform")
    assert widths(kept) == [2, 3]
    assert cost_of(toy.graph, toy.graph.keep(kept)).macs == 2232
    assert widths(select(toy.graph, increasing(toy.graph), Budget(macs=3552), scope="uniform")) == [3, 4]
    assert widths(select(toy.graph, increasing(toy.graph), Budget(macs=3551), scope="uniform")) == [2, 3]


def test_several_budgets_all_hold():
    graph = toys.residual().graph
    dense = CostModel(graph).dense
    budget = Budget(macs=0.6, params=0.4, channels=0.9)
    for scope in ("global", "uniform"):
        cost = cost_of(graph, graph.keep(select(graph, increasing(graph), budget, scope=scope)))
        assert cost.macs <= 0.6 * dense.macs
        assert cost.params <= 0.4 * dense.params
        assert cost.channels <= 11


def test_round_to_multiples_or_dense():
    graph = plain_graph(10, 3, 16)
    # floor: 4 of 10, 3 of 3 (dense is smaller than 4), 4 of 16
    assert widths(select(graph, increasing(graph), Budget(channels=11), round_to=4)) == [4, 3, 4]
    assert widths(select(graph, increasing(graph), Budget(channels=29), round_to=4)) == [10, 3, 16]
    uniform = select(graph, increasing(graph), Budget(channels=0.5), scope="uniform", round_to=4)
    # targets 5, 2, 8 (15 in all); rounded down and floored: 4, 3, 8 (15)
    assert widths(uniform) == [4, 3, 8]


def test_round_to_floor_is_the_first_multiple_above_min_channels():
    graph = plain_graph(16, 6)
    kept = select(graph, increasing(graph), Budget(channels=14), round_to=4, min_channels=5)
    assert widths(kept) == [8, 6]  # first multiple of 4 that is >= 5 is 8; 6 is the dense count below it
    with pytest.raises(BudgetError, match="14 channels"):
        select(graph, increasing(graph), Budget(channels=13), round_to=4, min_channels=5)


def test_round_to_channel_share_is_a_ceiling():
    graph = plain_graph(10, 10)
    kept = select(graph, increasing(graph), Budget(channels=0.55), round_to=4)  # 11 allowed
    assert widths(kept) == [4, 4]
    assert widths(select(graph, increasing(graph), Budget(channels=0.6), round_to=4)) == [4, 8]


def test_widths_alone_leave_the_rest_whole():
    graph = toys.residual().graph
    kept = select(graph, increasing(graph), Budget(widths={"a": 2}), round_to=4, min_channels=3)
    assert widths(kept) == [5, 2]
    assert kept["a"].tolist() == [False] * 5 + [True] * 2


def test_widths_by_any_producing_module_and_another_budget():
    graph = toys.residual().graph
    assert widths(select(graph, increasing(graph), Budget(widths={"b": 3}))) == [3, 7]  # b writes to the stem's stream
    kept = select(graph, increasing(graph), Budget(widths={"b": 5}, channels=8))
    assert widths(kept) == [5, 3]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"stem": 2, "b": 3}, "one width"),
        ({"stem": 2, "b": 2}, "one width"),
        ({"sten": 2}, "did you mean 'stem'"),
        ({"a": 8}, "at most"),
        ({"head": 2}, "the model's output"),
    ],
)
def test_widths_that_name_no_group(given, words):
    graph = toys.residual().graph
    with pytest.raises(ConfigError, match=words):
        select(graph, increasing(graph), Budget(widths=given))


def test_a_module_of_several_groups_is_ambiguous():
    groups = tuple(
        ChannelGroup(f"qkv.weight[{3 * i}:{3 * i + 3}]", 3, 3 * i, (Binding("qkv.weight", 0, "produces", index),))
        for i, index in enumerate((np.array([0, 1, 2, -1, -1, -1]), np.array([-1, -1, -1, 0, 1, 2])))
    )
    shapes, axes = {"qkv.weight": (6, 2)}, {"qkv.weight": {0: np.arange(6)}}
    graph = ChannelGraph(groups, (), shapes, axes, frozenset(shapes), ())
    with pytest.raises(ConfigError, match="makes 2"):
        select(graph, increasing(graph), Budget(widths={"qkv": 2}))
    assert widths(select(graph, increasing(graph), Budget(widths={"qkv.weight[0:3]": 2}))) == [2, 3]


@pytest.mark.parametrize("scope", ["global", "uniform"])
def test_unreachable_names_the_floor_and_what_holds_it_up(scope):
    graph = toys.chain().graph
    # floor: one channel each: conv1 864, conv2 72, fc 24 MACs = 960
    assert widths(select(graph, increasing(graph), Budget(macs=960), scope=scope)) == [1, 1]
    with pytest.raises(BudgetError) as caught:
        select(graph, increasing(graph), Budget(macs=959), scope=scope)
    text = str(caught.value)
    assert "959 macs" in text
    assert "960 macs" in text
    assert "group 'conv1', 1 of 5 channels left: 936 macs" in text
    assert "frozen 'input', the model's input: 864 macs" in text
    assert "min_channels=1" in text


def test_unreachable_params_and_channels():
    graph = toys.chain().graph
    with pytest.raises(BudgetError, match=r"frozen 'output', the model's output: 15 params"):
        select(graph, increasing(graph), Budget(params=1), scope="uniform")
    with pytest.raises(BudgetError, match="6 channels"):
        select(graph, increasing(graph), Budget(channels=5), min_channels=3)


def test_global_share_below_the_floor_is_an_error_not_a_smaller_cut():
    graph = plain_graph(3, 3, 3)
    with pytest.raises(BudgetError, match="3 channels"):
        select(graph, increasing(graph), Budget(channels=0.2))  # 2 of 9, and three groups hold one each


def test_nothing_to_prune_gives_the_reasons():
    frozen = (Frozen("fft", 3, "an op without a rule", Source("aten.fft", "mix", "net.py", 7), ("conv.weight 0",)),)
    graph = ChannelGraph((), frozen, {"conv.weight": (3, 3)}, {}, frozenset({"conv.weight"}), ())
    with pytest.raises(BudgetError, match=r"(?s)every channel is frozen.*an op without a rule.*net\.py:7"):
        select(graph, {}, Budget(channels=0.5))


def test_scores_must_fit():
    graph = plain_graph(2)
    for bad in ({}, {"g0": torch.ones(3)}, {"g0": torch.tensor([1.0, float("nan")])}):
        with pytest.raises(PruningError, match="g0"):
            select(graph, bad, Budget(channels=1))


@pytest.mark.parametrize(
    "options",
    [
        {"scope": "locally"},
        {"normalise": "max"},
        *({"round_to": wrong} for wrong in (0, 1.5, True)),
        *({"min_channels": wrong} for wrong in (0, 0.0, 1.5, float("nan"), True, "2")),
    ],
)
def test_options_must_be_valid(options):
    graph = plain_graph(2)
    with pytest.raises(ConfigError, match=next(iter(options))):
        select(graph, increasing(graph), Budget(channels=1), **options)


def test_a_given_width_counts_in_the_channel_budget():
    graph = plain_graph(10, 10)
    for scope in ("global", "uniform"):
        kept = select(graph, increasing(graph), Budget(channels=0.5, widths={"g0": 8}), scope=scope)
        assert widths(kept) == [8, 2]  # 10 in all
    kept = select(graph, increasing(graph), Budget(channels=0.5, widths={"g0": 2}), scope="uniform")
    assert widths(kept) == [2, 5]  # a share is a target: the other group gets no more than its own
    with pytest.raises(BudgetError, match="1 given widths"):
        select(graph, increasing(graph), Budget(channels=0.5, widths={"g0": 10}))
