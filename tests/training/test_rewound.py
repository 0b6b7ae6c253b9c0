"""Weights after a cut, rewound: the earlier weights of the dense network, at the channels that stayed."""

import pytest
import torch
from torch import nn

import torchbonsai as tb
from torchbonsai.training.policy import rewound


def network(seed, width=8):
    net = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 4, 1))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return net


def test_rewound_weights_are_the_early_ones_where_channels_stayed():
    early, trained = network(0), network(1)
    plan = tb.prune(trained, torch.zeros(1, 3, 6, 6), budget=tb.Budget(widths={"0": 3})).plan
    kept = plan.kept["0.weight"][0]
    small = rewound(plan, early)
    assert torch.equal(small[0].weight, early[0].weight[kept])
    assert torch.equal(small[1].bias, early[1].bias[kept])
    assert torch.equal(small[3].weight, early[3].weight[:, kept])
    assert not torch.equal(small[0].weight, trained[0].weight[kept])


def test_another_network_is_refused():
    plan = tb.prune(network(1), torch.zeros(1, 3, 6, 6), budget=tb.Budget(widths={"0": 3})).plan
    with pytest.raises(tb.PlanError):
        rewound(plan, network(0, width=9))
