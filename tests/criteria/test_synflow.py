"""Synaptic flow: shares on paper, conservation, norms and caps, rounds."""

import pytest
import torch
from by_hand import scored, two_layers
from torch import nn

import torchbonsai as tb
from torchbonsai.core.errors import ConfigError, DataError, PruningError
from torchbonsai.criteria import ScoringContext, SynFlow
from torchbonsai.testing.criteria import networks

ONE = SynFlow(rounds=1)


def test_shares_of_absolute_paths():
    # paths |1 · 3| = 3 and |−2 · −1| = 2
    assert scored(two_layers([1.0, -2.0], [[3.0, -1.0]]), ONE) == pytest.approx([0.6, 0.4])


@pytest.mark.parametrize("between", [nn.ReLU6, nn.Hardtanh, nn.Identity, nn.SiLU, nn.Tanh])
def test_no_activation_saturates(between):
    model = two_layers([100.0, -200.0], [[300.0, -100.0]], between)
    assert scored(model, ONE) == pytest.approx([0.6, 0.4])


def test_biases_and_shifts_do_not_flow_and_scales_do():
    model = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2), nn.ReLU(), nn.Linear(2, 1)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [-2.0]]))
        model[3].weight.copy_(torch.tensor([[3.0, -1.0]]))
        model[1].weight.copy_(torch.tensor([2.0, -6.0]))
        model[1].running_mean.fill_(5)
        model[1].running_var.copy_(torch.tensor([4.0, 9.0]) - model[1].eps)
        for bias in (model[0].bias, model[1].bias, model[3].bias):
            bias.fill_(-7)
    assert scored(model, ONE) == pytest.approx([3 / 7, 4 / 7])  # 1 · 2/2 · 3 and 2 · 6/3 · 1
    assert model[1].running_mean.tolist() == [5, 5]
    assert model[0].bias.tolist() == [-7, -7]


def test_flow_is_conserved_along_a_chain():
    for name in ("chain", "depthwise"):
        net = networks()[name]
        scores = ScoringContext(net.graph, net.model, example_inputs=net.inputs).resolve(ONE)
        assert [v.sum().item() for v in scores.values()] == pytest.approx([1.0, 1.0])


def test_rounds_by_hand():
    # Flows 0.5, 0.3, 0.2; ⌊3 · 3^-½ + ½⌋ = 2 are left after the first round, 1 after the second.
    model = two_layers([5.0, 3.0, 2.0], [[1.0, 1.0, 1.0]])
    assert scored(model, SynFlow(rounds=2, down_to=1 / 3)) == [1.0, 0.5, 0.0]


def test_rounds_can_leave_another_way_than_one():
    # Two readers in a row: b's channels share the flow of a's that are left.
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [0.9]]))
        model[1].weight.copy_(torch.tensor([[0.0, 2.0], [1.0, 0.0]]))
        model[2].weight.fill_(1)
    context = ScoringContext(tb.trace(model, torch.ones(2, 1)), model, example_inputs=torch.ones(2, 1))
    # Flow 2.8: "0" (1, 1.8) and "1" (1.8, 1): equal, lowest the first channel of "0"; then "1" carries all in one.
    assert torch.cat(list(context.resolve(ONE).values())).tolist() == pytest.approx(
        [1 / 2.8, 1.8 / 2.8, 1.8 / 2.8, 1 / 2.8]
    )
    rounds = context.resolve(SynFlow(rounds=2, down_to=0.5))
    assert rounds["0"][0] < rounds["1"][1] < rounds["0"][1] == rounds["1"][0]


def test_a_mean_that_is_subtracted_is_refused():
    model = nn.Sequential(nn.Linear(1, 4), nn.LayerNorm(4), nn.Linear(4, 1))
    with pytest.raises(PruningError, match="layer norm"):
        scored(model, ONE)


def test_inputs_come_from_the_first_batch_or_not_at_all():
    model = two_layers([1.0, -2.0], [[3.0, -1.0]])
    graph = tb.trace(model, torch.ones(2, 1))
    values = ScoringContext(graph, model, [(torch.ones(4, 1), None)]).resolve(ONE)["0"]
    assert values.tolist() == pytest.approx([0.6, 0.4])
    with pytest.raises(DataError, match="shape"):
        ScoringContext(graph, model).resolve(ONE)


@pytest.mark.parametrize("options", [{"rounds": 0}, {"rounds": 1.5}, {"rounds": True}, {"down_to": 0}, {"down_to": 1}])
def test_bad_options(options):
    with pytest.raises(ConfigError, match="rounds"):
        SynFlow(**options)


def test_through_prune():
    model = two_layers([1.0, -2.0, 0.5], [[3.0, -1.0, 1.0]])
    result = tb.prune(model, torch.ones(1, 1), budget=tb.Budget(channels=2), criterion=SynFlow(rounds=3))
    assert result.plan.kept["0.weight"][0].tolist() == [0, 1]
