"""Where there are no values: the widths can be planned and applied, nothing is claimed of the numbers."""

import pytest
import torch
from torch import nn

import torchbonsai as tb


def network():
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 3)).to("meta")


def test_widths_are_cut_on_the_meta_device():
    x = torch.empty(2, 3, 8, 8, device="meta")
    result = tb.prune(network(), x, budget=tb.Budget(widths={"0": 6}), criterion=tb.criteria.Random())
    assert result.model[0].weight.shape == (6, 3, 3, 3)
    assert result.model[0].weight.is_meta
    assert not result.verification.exact
    assert "float64" in result.verification.reason


def test_a_criterion_of_weights_says_that_there_are_none():
    x = torch.empty(2, 3, 8, 8, device="meta")
    with pytest.raises(tb.PruningError, match="meta device"):
        tb.prune(network(), x, budget=tb.Budget(channels=0.5))
