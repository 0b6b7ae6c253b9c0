"""What is said not to depend on the input does not change with it; and enough is found."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from torchbonsai.graph.call import flat_tensors
from torchbonsai.graph.trace import named_tensors
from torchbonsai.surgery.depends import Depends


def made(function, seed=0):
    """A module with a convolution whose filters 0 and 2 are zero, and a norm whose scale of channel 3 is zero."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)
            self.norm, self.head = nn.BatchNorm2d(6), nn.Linear(24, 5)
            self.register_buffer("table", torch.arange(6.0).reshape(1, 6, 1, 1))

        def forward(self, x):
            return function(self, x)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Net().eval()
        for p in net.norm.parameters():
            nn.init.normal_(p)
    with torch.no_grad():
        net.a.weight[[0, 2]] = 0
        net.norm.weight[3] = 0
    return net


def inputs(seed):
    return torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(seed))


def depends(net, x):
    follow = Depends(t for _, t in named_tensors(net))
    with torch.no_grad(), follow:
        out = net(x)
    return [(t, follow(t)) for t in flat_tensors(out)], follow


def channels(mask):
    return [c for c in range(mask.shape[1]) if not mask[:, c].any()]


ZERO = [0, 2, 3]
"""Constant behind the norm."""


def normed(net, x):
    return net.norm(net.a(x))


def in_place(net, x):
    y = F.relu_(normed(net, x))
    y[:, 0].add_(x[:, 0])  # a write into a view
    return y


def written_over(net, x):
    y = normed(net, x)
    y[:, 1].copy_(net.table[:, 1].expand(2, 6, 6))
    return y


CASES = {
    "filters of zero": (lambda net, x: net.a(x), [0, 2]),
    "a scale of zero": (normed, ZERO),
    "pointwise": (lambda net, x: F.hardswish(normed(net, x)) * 2 + net.table, ZERO),
    "a product with zero": (lambda net, x: normed(net, x) * (net.table > 2) * torch.sigmoid(x[:, :1]), [0, 1, 2]),
    "in place": (in_place, [2, 3]),
    "written over": (written_over, [0, 1, 2, 3]),
    "pooled": (lambda net, x: F.avg_pool2d(F.max_pool2d(normed(net, x), 2), 3, padding=1), ZERO),
    "globally pooled": (lambda net, x: F.adaptive_avg_pool2d(normed(net, x), 1).mean((2, 3)), ZERO),
    "circular": (lambda net, x: F.pad(normed(net, x), (1, 1, 1, 1), mode="circular"), ZERO),
    "padded": (lambda net, x: F.pad(normed(net, x), (1, 1)), ZERO),
    "joined": (lambda net, x: torch.cat([x, normed(net, x)], 1).flip(1)[:, 1:], [1, 2, 4]),
    "flat": (lambda net, x: F.adaptive_max_pool2d(normed(net, x), 2).flatten(1), []),
    "two layers": (lambda net, x: net.b(normed(net, x) * (net.table == 3)), [0, 1, 2, 3]),
    "an unknown op": (lambda net, x: normed(net, x).sort(1).values, []),
    "mixed over channels": (lambda net, x: normed(net, x).softmax(1), []),
    "random": (lambda net, x: net.table * torch.rand(1, 6, 1, 1), [0]),
}


@pytest.mark.parametrize("name", CASES)
def test_what_does_not_depend_stays(name):
    net = made(CASES[name][0])
    ((out, mask),), follow = depends(net, inputs(0))
    assert mask.shape == out.shape
    assert not follow.void
    assert channels(mask) == CASES[name][1]
    for seed in (1, 2, 3):
        other = net(inputs(seed) * 10)
        assert torch.equal(other[~mask], out[~mask])


def test_a_branch_on_the_input_voids_the_proof():
    net = made(lambda net, x: normed(net, x) * (2 if x.sum().item() > 0 else 3))
    ((_, mask),), follow = depends(net, inputs(0))
    assert "decide a branch" in follow.void
    assert mask.all()


@pytest.mark.parametrize("read", ["tolist", "numpy"])
def test_a_branch_on_numbers_that_left_voids_the_proof(read):
    """Both branches give constants, which the input chose out of sight."""
    net = made(lambda net, x: net.table * (2 if getattr(x.sum(), read)() > 0 else 3))
    ((_, mask),), follow = depends(net, inputs(0))
    assert "makes the input decide a branch" in follow.void
    assert mask.all()


@pytest.mark.parametrize("read", ["tolist", "numpy"])
def test_constants_may_leave(read):
    net = made(lambda net, x: normed(net, x) * (2 if getattr(net.table.sum(), read)() > 0 else 3))
    ((_, mask),), follow = depends(net, inputs(0))
    assert not follow.void
    assert channels(mask) == ZERO


def test_numbers_made_out_of_sight_depend():
    net = made(lambda net, x: net.table + torch.tensor(x.detach().numpy().sum()))
    ((_, mask),), _ = depends(net, inputs(0))
    assert mask.all()


def test_a_padded_border_is_constant_and_not_alike():
    net = made(lambda net, x: F.conv2d(normed(net, x)[:, 2:4], net.b.weight[:, 2:4], padding=1))
    ((out, mask),), _ = depends(net, inputs(0))
    assert not mask.any()
    assert out[0, 0].std() > 0
