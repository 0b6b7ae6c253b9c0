"""Learned gates: the paper's own gates, after the norm and before the ReLU, learned step by step beside ours."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torchbonsai as tb
from torchbonsai.criteria import GateSaliency
from torchbonsai.criteria.base import ScoringContext


class Gated(nn.Module):
    """Two blocks of convolution, norm and ReLU; with gates after the norms, where the paper has them."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.conv2, self.norm2 = nn.Conv2d(5, 7, 3, padding=1), nn.BatchNorm2d(7)
        self.head = nn.Linear(7, 4)

    def forward(self, x, gates=None):
        first = self.norm1(self.conv1(x))
        if gates is not None:
            first = first * gates[:5, None, None]
        second = self.norm2(self.conv2(first.relu()))
        if gates is not None:
            second = second * gates[5:, None, None]
        return self.head(second.relu().mean((2, 3)))


@pytest.fixture
def net():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Gated().double()


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(5)
    return [(torch.randn(6, 3, 6, 6, generator=generator, dtype=torch.float64), torch.arange(6) % 4) for _ in range(3)]


def paper(net, batches, criterion):
    """The algorithm as the paper's code has it, on gates of the network's own."""
    gates = torch.ones(12, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([gates], lr=criterion.lr)
    generator = torch.Generator().manual_seed(criterion.seed)
    net.train()
    for _ in range(criterion.epochs):
        for number in torch.randperm(len(batches), generator=generator).tolist():
            x, y = batches[number]
            pressure = criterion.strength * (gates.abs().mean() - criterion.sparsity) ** 2
            optimizer.zero_grad()
            (F.cross_entropy(net(x, gates), y) + pressure).backward()
            optimizer.step()
            gates.data.clamp_(0, 1)
    return gates.detach()


def test_they_are_the_paper_s_gates(net, batches):
    criterion = GateSaliency(epochs=8, lr=0.05, sparsity=0.3)
    result = tb.prune(net, batches[0][0], budget=tb.Budget(channels=0.5), criterion=criterion, batches=batches)
    expected = paper(net, batches, criterion)
    found = torch.cat([result.scores["conv1"], result.scores["conv2"]])
    assert (found - expected).abs().max() < 1e-6
    assert found.min() < 0.5 < found.max()
    assert result.details["forward_passes"] == 24


def test_pressure_closes_gates_and_without_it_fewer_close(net, batches):
    def gates(**settings):
        criterion = GateSaliency(epochs=15, lr=0.05, **settings)
        result = tb.prune(net, batches[0][0], budget=tb.Budget(channels=0.9), criterion=criterion, batches=batches)
        return torch.cat(list(result.scores.values()))

    pressed = gates(strength=50.0, sparsity=0.2)
    assert abs(pressed.mean() - 0.2) < 0.05
    closed = gates(strength=50.0, sparsity=0.0)
    assert closed.min() == 0.0, "clipped, not negative"
    assert gates(strength=0.0).mean() > pressed.mean() + 0.1


def test_settings_that_mean_nothing_are_refused():
    refused = ({"sparsity": 1.5}, {"strength": -1}, {"epochs": 0}, {"epochs": True}, {"lr": 0}, {"seed": -1})
    for settings in refused:
        with pytest.raises(tb.ConfigError, match=next(iter(settings))):
            GateSaliency(**settings)


class Dropping(torch.nn.Module):
    """Remembers which of its hidden neurons dropout left on."""

    def __init__(self):
        super().__init__()
        self.first, self.drop, self.last = torch.nn.Linear(6, 40), torch.nn.Dropout(0.5), torch.nn.Linear(40, 3)
        self.seen = []

    def forward(self, x):
        hidden = self.first(x).relu()
        on = self.drop(torch.ones_like(hidden))
        if self.training:
            self.seen.append(on.detach() != 0)
        return self.last(hidden * on)


def test_dropout_draws_anew_in_every_step():
    seen = []
    for _ in range(2):
        torch.manual_seed(0)
        net, batches = Dropping(), [(torch.randn(4, 6), torch.arange(4) % 3)]
        context = ScoringContext(tb.trace(net, batches[0][0]), net, batches)
        net.seen.clear()
        context.resolve(GateSaliency(epochs=5))
        seen.append(torch.stack([on for on in net.seen if not on.all()]))
    assert torch.equal(*seen), "the same when it is done again"
    assert len({tuple(on.flatten().tolist()) for on in seen[0]}) == 5
