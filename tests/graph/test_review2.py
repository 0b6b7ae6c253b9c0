"""Networks that were refused by the verification, or cut out of step, for a rule that claimed too much."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torchbonsai as tb
from torchbonsai.testing import check_surgery

HALF = tb.Budget(channels=0.5)


@pytest.fixture
def rows():
    return torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))


def divided(net, made):
    """Three layers; what `made` makes of the second is divided by the width of the first."""
    parts = {"a": nn.Linear(8, 16), "b": nn.Linear(16, 12), "b2": nn.Linear(16, 12), "norm": nn.BatchNorm1d(5)}
    parts |= {"c": nn.Linear(12, 4), "d": nn.Linear(24, 4)}

    def forward(self, x):
        h = F.relu(self.a(x))
        return made(self, h, h.shape[-1])

    model = net(forward, **parts)
    model.register_buffer("table", torch.linspace(-1, 1, 12))
    model.shift = nn.Parameter(torch.linspace(1, 2, 5))
    return model


def buffer_as_bias(self, h, n):
    return self.c(torch.tanh(F.linear(h, self.b.weight, self.table) / n))


def weight_in_a_cat(self, h, n):
    both = F.linear(h, torch.cat([self.b.weight, self.b2.weight]))
    return self.c(torch.tanh(F.linear(h, self.b.weight) / n)) + self.d(torch.tanh(both))


def padded_with_ones(self, h, n):
    return self.c(torch.tanh(F.pad(self.b(h), (0, 0, 1, 1), value=1.0) / n))


def pad_read_elsewhere(self, h, n):
    y = self.b(h)
    return self.c(torch.tanh(y / n)).sum(1) + self.c(torch.tanh(F.pad(y, (0, 0, 1, 1), value=1.0))).sum(1)


def norm_without_weight(self, h, n):
    y = F.batch_norm(self.b(h), self.norm.running_mean, self.norm.running_var, None, self.shift)
    return self.c(torch.tanh(y / n))


def rounded_to_ints(self, h, n):
    return self.c(torch.tanh((8 * self.b(h)).to(torch.int32) / n))


def bias_returned(self, h, n):
    return self.c(torch.tanh(self.b(h) / n)), self.b.bias


@pytest.mark.parametrize(
    "made",
    [
        *(buffer_as_bias, weight_in_a_cat, padded_with_ones, pad_read_elsewhere, norm_without_weight, rounded_to_ints),
        bias_returned,
    ],
)
def test_no_rows_take_up_a_factor_that_others_see(net, rows, made):
    model = divided(net, made)
    result = tb.prune(model, rows, budget=HALF, only="a")
    assert result.model.a.out_features == 8
    assert not result.plan.scales
    assert "a width is used as a value" in result.verification.reason


def test_rescaled_layers_that_keep_their_width_follow_in_place(net, rows):
    model = divided(net, lambda self, h, n: self.c(torch.tanh(self.b(h) / n)))
    wanted = tb.prune(model, rows, budget=HALF, ignore="b").model
    loose = {k: v.clone() for k, v in model.state_dict().items()}
    averaged = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    pruner = tb.Pruner(model, rows, optimizer, budget=HALF, ignore="b", follow=[averaged, loose])
    assert pruner.step()
    assert {s.name for s in pruner.result().plan.scales} == {"b.weight", "b.bias"}
    for name, tensor in wanted.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
        assert torch.equal(averaged.state_dict()[name], tensor), name
        assert torch.equal(loose[name], tensor), name
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in model.parameters()}


def test_positions_in_a_loose_copy_are_renumbered(net, pictures):
    order = torch.arange(12).roll(5)
    model = net(lambda s, x: s.b(s.a(x)[:, s.order]), a=nn.Conv2d(3, 12, 1), b=nn.Conv2d(12, 4, 1))
    model.register_buffer("order", order)
    loose = {k: v.clone() for k, v in model.state_dict().items()}
    pruner = tb.Pruner(model, pictures, torch.optim.SGD(model.parameters(), lr=0.1), budget=HALF, follow=[loose])
    assert pruner.step()
    assert torch.equal(loose["order"], model.order)
    assert model.order.tolist() != order.tolist()


@pytest.mark.parametrize("blocks", [None, "whole", "inside"])
def test_an_output_seen_in_blocks_says_what_stays_axis_by_axis(net, pictures, blocks):
    model = net(lambda s, x: s.a(x).view(x.shape[0], 4, -1, 8, 8), a=nn.Conv2d(3, 12, 1))
    for cut in check_surgery(model, pictures, shares=(0.3, 0.6), prune_outputs=True, blocks=blocks):
        assert cut.plan.outputs[0].keys() == {2}


@pytest.mark.parametrize("running", [torch.cumsum, torch.logcumsumexp, lambda x, dim: torch.cummax(x, dim)[0]])
def test_running_through_blocks_takes_the_same_positions_of_each(net, pictures, running):
    def forward(self, x):
        return self.b(F.relu(running(self.a(x).view(x.shape[0], 4, -1, 8, 8), 1).flatten(1, 2)))

    model = net(forward, a=nn.Conv2d(3, 16, 1), b=nn.Conv2d(16, 4, 1))
    for cut in check_surgery(model, pictures, shares=(0.3, 0.6)):
        stays = cut.plan.kept["a.weight"][0].reshape(4, -1) % 4
        assert (stays == stays[0]).all()


@pytest.mark.parametrize("kept", [4, 8])
def test_blocks_do_not_split_where_whole_ones_leave(net, pictures, kept):
    """Two of four blocks of four stay: seen as four of two, sums would run over halves of them."""

    def forward(self, x):
        return self.b(F.relu(self.a(x).view(x.shape[0], 4, -1, 8, 8).cumsum(2).flatten(1, 2)))

    model = net(forward, a=nn.Conv2d(3, 16, 1), b=nn.Conv2d(16, 4, 1))
    with pytest.raises(tb.PruningError, match="every channel is frozen"):
        tb.prune(model, pictures, budget=tb.Budget(channels=kept / 16))


def test_one_channel_a_block_may_be_left(net, pictures):
    def summed(self, x):
        return self.b(F.relu(self.a(x).view(x.shape[0], 4, -1, 8, 8).cumsum(1).flatten(1, 2)))

    model = net(summed, a=nn.Conv2d(3, 16, 1), b=nn.Conv2d(16, 4, 1))
    result = tb.prune(model, pictures, budget=tb.Budget(channels=0.25))
    assert result.model.a.out_channels == 4
    assert result.verification.exact
