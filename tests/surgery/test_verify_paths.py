"""Gates are found by a pass without values; where one on values takes other kernels, they are found again on values."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import torchbonsai as tb
from torchbonsai.surgery import verify
from torchbonsai.surgery.gates import ActivationGate


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()


def test_a_hollow_pass_on_another_path_is_made_again_on_values(monkeypatch, network):
    real, asked = verify.sites_of_pass, []

    def elsewhere(graph, model, example, hollow=False):
        asked.append(hollow)
        sites = real(graph, model, example, False)
        wrong = ActivationGate(0, "aten.bmm.default", 0, (1,), next(iter(sites.weights.values()))[1])
        return replace(sites, activations=[wrong]) if hollow else sites

    monkeypatch.setattr(verify, "sites_of_pass", elsewhere)
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    result = tb.prune(network, x, budget=tb.Budget(channels=0.5))
    assert asked == [True, False]
    assert result.verification.exact
    assert result.verification.max_rel_error < 1e-9
