"""Predicted costs against the networks that are really cut, counted by torch."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import torchbonsai as tb
from torchbonsai.models import ModelConfig, build


@pytest.mark.parametrize("name", ["lenet", "resnet20", "mobilenet_v2", "densenet40", "shufflenet_small"])
def test_prediction_is_what_the_small_network_costs(name):
    shape = (1, 28, 28) if name == "lenet" else (3, 32, 32)
    model, x = build(ModelConfig(name, in_shape=shape), seed=0), torch.zeros(2, *shape)
    result = tb.prune(model, x, budget=tb.Budget(macs=0.4, params=0.6), criterion=tb.criteria.Random(), verify=False)
    for network, cost in ((model, result.cost.before), (result.model, result.cost.after)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network.eval()(x)
        assert counter.get_total_flops() == 2 * cost.macs
        assert sum(p.numel() for p in network.parameters()) == cost.params
    assert result.cost.after.macs <= 0.4 * result.cost.before.macs
    assert result.cost.after.params <= 0.6 * result.cost.before.params
