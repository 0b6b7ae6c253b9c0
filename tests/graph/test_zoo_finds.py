"""Small forms of what networks of the zoo benchmark taught the tracer."""

from __future__ import annotations

import torch
from torch import nn

import torchbonsai as tb

HALF = tb.Budget(channels=0.5)


def test_local_response_norm_lets_channels_go_and_says_that_it_is_inexact():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 12, 3), nn.LocalResponseNorm(5), nn.Conv2d(12, 4, 1))
    result = tb.prune(net, torch.randn(1, 3, 8, 8), budget=HALF)
    assert result.model[0].out_channels == 6
    assert not result.verification.exact
    assert "neighbouring channels" in result.verification.reason


class Pooled(nn.Module):
    """A batch norm on a single value a channel, which trains on two pictures at least."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.norm(self.conv(x).mean((2, 3), keepdim=True)).flatten(1))


def test_a_train_pass_on_a_doubled_batch_is_proved_on_a_doubled_batch():
    torch.manual_seed(0)
    result = tb.prune(Pooled(), torch.randn(1, 3, 8, 8), budget=HALF)
    assert result.model.conv.out_channels == 4
    assert result.verification.exact


class Noisy(nn.Module):
    """Multiplies by numbers drawn into memory that was left as it is."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.a(x)
        if self.training:
            x = x * torch.empty(x.size(0)).view(-1, 1, 1, 1).uniform_(0.5, 1.5)
        return self.b(x)


def test_drawn_numbers_are_not_taken_for_widths():
    torch.manual_seed(0)
    result = tb.prune(Noisy(), torch.randn(2, 3, 8, 8), budget=HALF)
    assert result.verification.exact
    assert result.plan.inexact == ()


class Reversible(nn.Module):
    """Gives an activation's memory back once it was used."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        y = self.a(x)
        z = torch.relu(y)
        y.set_()
        return self.b(z)


def test_a_tensor_whose_memory_is_given_back_freezes_nothing():
    torch.manual_seed(0)
    result = tb.prune(Reversible(), torch.randn(2, 3, 8, 8), budget=HALF)
    assert result.model.a.out_channels == 4
    assert result.verification.exact
