"""Running statistics against numbers on paper, and against all data at once."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torchbonsai as tb
from torchbonsai.core.errors import DataError


def test_ragged_batches_by_hand():
    net = nn.Sequential(nn.BatchNorm1d(2, momentum=0.9))
    batches = [torch.tensor([[1.0, 0], [2, 0]]), torch.tensor([[6.0, 1], [3, 1], [3, 3]])]
    assert tb.recalibrate(net, batches) == ("0.running_mean",)
    assert net[0].running_mean.tolist() == [3, 1]  # (1 + 2 + 6 + 3 + 3) / 5, (0 + 0 + 1 + 1 + 3) / 5
    assert net[0].running_var.tolist() == [3.5, 1.5]  # (4 + 1 + 9 + 0 + 0) / 4, (1 + 1 + 0 + 0 + 4) / 4
    assert net[0].num_batches_tracked == 0


def pictures(*sizes):
    generator = torch.Generator().manual_seed(0)
    return [3 + 2 * torch.randn(n, 3, 6, 6, generator=generator) for n in sizes]


class Deep(nn.Module):
    """A norm that is used twice, one of the user's own over F.batch_norm, dropout between, one that nobody calls."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.register_buffer("moving", torch.zeros(3))
        self.register_buffer("spread", torch.ones(3))
        self.drop, self.unused = nn.Dropout(0.9), nn.BatchNorm2d(3)

    def forward(self, x):
        x = self.bn(F.relu(self.bn(self.conv(x))))
        return F.batch_norm(self.drop(x), self.moving, self.spread, None, None, self.training)


def test_one_batch_equals_training_mode_with_momentum_one():
    (x,) = pictures(8)
    net, twin = Deep(), Deep()
    twin.load_state_dict(net.state_dict())
    found = tb.recalibrate(net, [x])
    assert found == ("bn.running_mean", "moving")
    twin.train()
    twin.drop.eval()
    with torch.no_grad():
        first = twin.conv(x)
        second = F.relu(F.batch_norm(first, None, None, twin.bn.weight, twin.bn.bias, True))
        last = F.batch_norm(second, None, None, twin.bn.weight, twin.bn.bias, True)
    both = torch.cat([first, second])
    assert torch.allclose(net.bn.running_mean, both.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(net.bn.running_var, both.transpose(0, 1).flatten(1).var(1), rtol=1e-5)
    assert torch.allclose(net.moving, last.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(net.spread, last.transpose(0, 1).flatten(1).var(1), rtol=1e-4)
    assert net.unused.running_var.tolist() == [1, 1, 1]


def test_all_but_the_statistics_stays():
    net = Deep().train()
    net.conv.eval()
    net.bn.eval()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    state = torch.get_rng_state()
    tb.recalibrate(net, pictures(4, 4))
    changed = {n for n, t in net.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == {"bn.running_mean", "bn.running_var", "moving", "spread"}
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in (net, net.conv, net.bn, net.drop, net.unused)] == [True, False, False, True, True]
    assert all(p.grad is None for p in net.parameters())


def test_a_forward_that_breaks_off_changes_nothing():
    net = Deep()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    with pytest.raises(RuntimeError):
        tb.recalibrate(net, [*pictures(4), torch.ones(4, 5, 6, 6)])
    with pytest.raises(DataError, match="two values"):
        tb.recalibrate(nn.Sequential(nn.BatchNorm1d(2)), [torch.ones(1, 2)])
    with pytest.raises(DataError, match="needs batches"):
        tb.recalibrate(net, iter(()))
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())


def test_batches_of_any_kind_and_a_forward_of_ones_own():
    (x,) = pictures(8)
    nets = [nn.Sequential(nn.BatchNorm2d(3)) for _ in range(3)]
    tb.recalibrate(nets[0], [x])
    tb.recalibrate(nets[1], [(x, torch.zeros(8))])
    tb.recalibrate(nets[2], [{"picture": x}], forward=lambda model, batch: model(batch["picture"]))
    assert all(torch.equal(nets[0][0].running_mean, net[0].running_mean) for net in nets)


def test_half_precision_and_no_norm():
    net = nn.Sequential(nn.BatchNorm2d(3)).to(torch.bfloat16)
    (x,) = pictures(64)
    tb.recalibrate(net, [x.to(torch.bfloat16)])
    assert net[0].running_var.float().tolist() == pytest.approx([4, 4, 4], rel=0.1)
    assert tb.recalibrate(nn.Linear(2, 2), [torch.ones(2, 2)]) == ()


def test_it_mends_a_cut_network():
    """Half the inputs of a normed layer gone: the mean and spread it sees are others."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    net.append(nn.Flatten()).append(nn.Linear(16, 2))
    data = pictures(16, 16)
    tb.recalibrate(net, data)
    small = tb.prune(net, data[0][:1], budget=tb.Budget(widths={"0": 4})).model
    seen = []
    small[3].register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))

    def spread():
        seen.clear()
        with torch.no_grad():
            for x in data:
                small(x)
        return torch.cat(seen).transpose(0, 1).flatten(1).std(1)

    before = spread()
    tb.recalibrate(small, data)
    assert (spread() - 1).abs().max() < 0.02 < (before - 1).abs().max()
