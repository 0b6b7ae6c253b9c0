"""The outlier rule by hand: mean − k · std within every group."""

import pytest
import torch
from test_select import plain_graph, widths

import torchbonsai as tb
from torchbonsai.core.errors import ConfigError
from torchbonsai.criteria import APoZ
from torchbonsai.selection.budget import Budget
from torchbonsai.selection.select import select
from torchbonsai.testing.toys import toys

# g0: mean 3, std sqrt(16 · 1/4 · …): (5, 5, 1, 1) has mean 3, std 2; g1: (4, 4, 4, 4, 0) has mean 3.2, std 1.6
SCORES = {"g0": torch.tensor([5.0, 5, 1, 1]), "g1": torch.tensor([4.0, 4, 0, 4, 4])}


def kept(k, **options):
    return select(plain_graph(4, 5), SCORES, Budget(outliers=k, **options.pop("budget", {})), **options)


def test_by_hand():
    assert kept(1.0)["g1"].tolist() == [True, True, False, True, True]  # 0 < 3.2 − 1.6
    assert widths(kept(1.0)) == [4, 4]  # 1 is not below 3 − 2
    assert widths(kept(0.99)) == [2, 4]
    assert widths(kept(1.99)) == [4, 4]
    assert widths(kept(2.0)) == widths(kept(9.0)) == [4, 4]  # 0 is not below 3.2 − 3.2, but the least there can be


def test_scores_of_zero_go_however_many_they_are():
    """A layer most of whose channels are dead has a threshold below zero."""
    for dead, stay in ((0, 10), (1, 9), (6, 4), (9, 1), (10, 10)):
        scores = torch.full((10,), 0.3)
        scores[:dead] = 0
        assert widths(select(plain_graph(10), {"g0": scores}, Budget(outliers=1.0))) == [stay]
    negative = torch.tensor([-1.0, 0, 0, 0, 0])  # zero is not the least there can be
    assert widths(select(plain_graph(5), {"g0": negative}, Budget(outliers=1.0))) == [4]


def test_in_every_scope_alike():
    for scope in ("global", "uniform", "knapsack"):
        assert widths(kept(0.99, scope=scope)) == [2, 4]


def test_multiples_and_floors():
    assert widths(kept(0.99, round_to=3)) == [3, 3]  # 2 is below the first multiple, 4 is rounded down
    assert widths(kept(0.99, min_channels=5)) == [4, 5]


def test_other_limits_hold_for_the_rest():
    budget = {"channels": 5}
    assert widths(kept(0.99, budget=budget)) == [2, 3]  # of 5 5 | 4 4 4 4, the first 4 of g1 leaves
    assert widths(kept(0.99, budget={"channels": 0.5}, scope="uniform")) == [2, 3]
    assert widths(kept(0.99, budget={"widths": {"g0": 3}})) == [3, 4]


def test_equal_scores_are_no_outliers():
    graph = plain_graph(3)
    for value in (0.1, 0.7, 1e-9, 1e9):
        assert widths(select(graph, {"g0": torch.full((3,), value)}, Budget(outliers=0.0))) == [3]


@pytest.mark.parametrize("bad", [-1, float("nan"), float("inf"), True, "1"])
def test_bad_deviations(bad):
    with pytest.raises(ConfigError, match="outliers"):
        Budget(outliers=bad)


def test_it_does_not_go_with_zeros():
    with pytest.raises(ConfigError, match="stands alone"):
        Budget(outliers=1.0, zeros=True)


def test_network_trimmings_rule_through_prune():
    toy = toys()["chain"]
    with torch.no_grad():
        toy.model.conv1.weight.zero_()
        toy.model.conv1.bias.copy_(torch.tensor([1.0, 1, 1, -1, 1]))  # APoZ 0, 0, 0, 1, 0: mean 0.2, std 0.4
    result = tb.prune(
        toy.model, toy.inputs, budget=tb.Budget(outliers=1.0), criterion=APoZ(), batches=[(toy.inputs, None)]
    )
    assert result.plan.kept["conv1.weight"][0].tolist() == [0, 1, 2, 4]
    assert result.verification.exact


def test_none_found_is_said():
    toy = toys()["chain"]
    result = tb.prune(toy.model, toy.inputs, budget=tb.Budget(outliers=9.0))
    assert result.notes[-1] == "no channel is an outlier: nothing was removed"
