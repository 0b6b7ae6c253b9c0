"""Contractions: what they read is consumed, what their weights make is a new group, and the cut is exact."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torchbonsai as tb
from torchbonsai.testing import check_surgery

HALF = {"shares": (0.5,), "seeds": (0, 1)}


def roles(graph, role):
    return {g.name: [(b.name, b.axis) for b in g.bound(role)] for g in graph.groups}


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_convolutions_of_all_ranks(net, dims):
    kind = getattr(nn, f"Conv{dims}d")
    model = net(lambda self, x: self.b(self.a(x).relu()), a=kind(3, 7, 3, padding=1), b=kind(7, 5, 1))
    graph = tb.trace(model, drawn(2, 3, *[6] * dims))
    assert {g.name: g.size for g in graph.groups} == {"a": 7}
    assert roles(graph, "produces") == {"a": [("a.weight", 0)]}
    assert roles(graph, "follows") == {"a": [("a.bias", 0)]}
    assert roles(graph, "consumes") == {"a": [("b.weight", 1)]}
    check_surgery(model, drawn(2, 3, *[6] * dims), **HALF)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_transposed_convolutions_read_axis_0_and_make_axis_1(net, dims):
    plain, transposed = getattr(nn, f"Conv{dims}d"), getattr(nn, f"ConvTranspose{dims}d")
    model = net(
        lambda self, x: self.c(self.b(self.a(x).relu()).relu()),
        a=plain(3, 7, 1), b=transposed(7, 5, 3, stride=2), c=plain(5, 2, 1),
    )  # fmt: skip
    graph = tb.trace(model, drawn(2, 3, *[4] * dims))
    assert roles(graph, "consumes") == {"a": [("b.weight", 0)], "b": [("c.weight", 1)]}
    assert roles(graph, "produces")["b"] == [("b.weight", 1)]
    cut = check_surgery(model, drawn(2, 3, *[4] * dims), **HALF)[0]
    assert (cut.small.b.in_channels, cut.small.b.out_channels) == tuple(cut.small.b.weight.shape[:2])


@pytest.mark.parametrize("transposed", [False, True])
def test_groups_keep_the_same_count_each(net, transposed):
    """Position j leaves in every group: 4 groups of 3 inputs and 2 outputs are 3 atoms and 2."""
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    model = net(
        lambda self, x: self.c(self.b(self.a(x).relu()).relu()),
        a=nn.Conv2d(3, 12, 1), b=kind(12, 8, 3, padding=1, groups=4), c=nn.Conv2d(8, 2, 1),
    )  # fmt: skip
    graph = tb.trace(model, drawn(2, 3, 6, 6))
    assert {g.name: g.size for g in graph.groups} == {"a": 3, "b": 2}
    made = graph.axes["a.weight"][0].reshape(4, 3)
    assert (made == made[0]).all()
    cut = check_surgery(model, drawn(2, 3, 6, 6), **HALF)[1]
    assert cut.small.b.groups == 4
    assert cut.small.b.in_channels in (4, 8)


@pytest.mark.parametrize("multiplier", [1, 2, 3])
@pytest.mark.parametrize("transposed", [False, True])
def test_depthwise_passes_channels_on(net, multiplier, transposed):
    """Nothing is summed: one group through it, its weight follows; a channel's outputs leave with it."""
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    wide = 7 * multiplier
    model = net(
        lambda self, x: self.c(self.b(self.a(x).relu()).relu()),
        a=nn.Conv2d(3, 7, 1), b=kind(7, wide, 3, padding=1, groups=7), c=nn.Conv2d(wide, 2, 1),
    )  # fmt: skip
    graph = tb.trace(model, drawn(2, 3, 6, 6))
    assert {g.name: g.size for g in graph.groups} == {"a": 7}
    assert ("b.weight", 0) in roles(graph, "follows")["a"]
    assert graph.axes["c.weight"][1].tolist() == [a for a in range(7) for _ in range(multiplier)]
    cut = check_surgery(model, drawn(2, 3, 6, 6), **HALF)[0]
    left = int(cut.kept.sum())
    assert (cut.small.b.groups, cut.small.b.in_channels, cut.small.b.out_channels) == (left, left, left * multiplier)


def test_linear_on_any_rank(net):
    for shape in ((4, 6), (2, 3, 6), (2, 3, 4, 6)):
        model = net(lambda self, x: self.b(self.a(x).relu()), a=nn.Linear(6, 11), b=nn.Linear(11, 2, bias=False))
        graph = tb.trace(model, drawn(*shape))
        assert {g.name: g.size for g in graph.groups} == {"a": 11}
        check_surgery(model, drawn(*shape), **HALF)


@pytest.mark.parametrize(
    "multiply",
    [
        lambda x, w: x @ w,
        lambda x, w: torch.mm(x, w),
        lambda x, w: torch.addmm(x.new_ones(1), x, w),
        lambda x, w: torch.einsum("nk,km->nm", x, w),
        lambda x, w: torch.bmm(x[None], w[None])[0],
        lambda x, w: torch.baddbmm(x.new_zeros(1, 1, 1), x[None], w[None])[0],
        lambda x, w: torch.stack([x @ w[:, k] for k in range(5)], 1),
        lambda x, w: torch.tensordot(x, w, dims=1),
        lambda x, w: (x[:, :, None] * w).sum(1),
        lambda x, w: F.linear(x, w.t()),
    ],
    ids="matmul mm addmm einsum bmm baddbmm mv tensordot multiply-sum linear".split(),
)
def test_bare_parameters(net, multiply):
    """However it is written, the parameter's first axis is contracted."""
    model = net(lambda self, x: multiply(self.a(x).relu(), self.w), a=nn.Linear(6, 9), w=nn.Parameter(torch.ones(9, 5)))
    graph = tb.trace(model, drawn(4, 6))
    assert {g.name: g.size for g in graph.groups} == {"a": 9}
    assert graph.axes["w"][0].tolist() == list(range(9))
    check_surgery(model, drawn(4, 6), **HALF)


def test_product_of_activations_over_channels_ties_both(net):
    def forward(self, x):
        q, k = self.q(x), self.k(x)
        return self.out(torch.bmm(q, k.transpose(1, 2)))

    model = net(forward, q=nn.Linear(6, 8), k=nn.Linear(6, 8), out=nn.Linear(5, 2))
    graph = tb.trace(model, drawn(2, 5, 6))
    assert {g.name: g.size for g in graph.groups} == {"q": 8}
    assert roles(graph, "produces") == {"q": [("q.weight", 0), ("k.weight", 0)]}
    check_surgery(model, drawn(2, 5, 6), **HALF)


def test_an_input_that_belongs_to_two_channels_leaves_with_the_first(net):
    """Bilinear pooling: the linear layer's input (i, j) leaves with channel i; channel j has to stay."""

    def forward(self, x):
        gram = torch.einsum("npi,npj->nij", self.a(x).relu(), self.b(x).relu())
        return self.out(gram.flatten(1))

    model = net(forward, a=nn.Linear(6, 4), b=nn.Linear(6, 3), out=nn.Linear(12, 2))
    graph = tb.trace(model, drawn(2, 5, 6))
    assert {g.name: g.size for g in graph.groups} == {"a": 4}
    assert {f.name: f.size for f in graph.frozen} == {"b": 3, "out": 2}
    check_surgery(model, drawn(2, 5, 6), **HALF)
    reason = next(f for f in graph.frozen if f.name == "b")
    assert "of another labelled one" in reason.reason
    assert reason.source.code == "return self.out(gram.flatten(1))"


def test_sum_over_channels_is_a_contraction(net):
    model = net(
        lambda self, x: self.b(self.a(x).relu().sum(1, keepdim=True)), a=nn.Conv2d(3, 9, 1), b=nn.Conv2d(1, 2, 1)
    )
    graph = tb.trace(model, drawn(2, 3, 6, 6))
    assert {g.name: g.size for g in graph.groups} == {"a": 9}
    assert not graph.groups[0].inexact
    check_surgery(model, drawn(2, 3, 6, 6), **HALF)


def test_what_meets_the_model_input_along_channels_is_frozen(net):
    model = net(lambda self, x: self.b(self.a(x) + x), a=nn.Linear(6, 6), b=nn.Linear(6, 2))
    graph = tb.trace(model, drawn(4, 6))
    assert graph.groups == ()
    assert [(f.name, f.size) for f in graph.frozen] == [("a", 6), ("b", 2)]
    assert "the model input" in graph.frozen[0].reason


def test_macs_of_contractions_are_counted_by_hand(net):
    model = net(
        lambda self, x: self.c(self.b(self.a(x))),
        a=nn.Conv2d(3, 4, 3, padding=1), b=nn.ConvTranspose2d(4, 6, 2, stride=2), c=nn.Conv2d(6, 6, 3, groups=2),
    )  # fmt: skip
    graph = tb.trace(model, drawn(2, 3, 5, 5))
    from torchbonsai.cost.macs import CostModel

    by_hand = 2 * (25 * 9 * 3 * 4) + 2 * (25 * 4 * 4 * 6) + 2 * (64 * 9 * 3 * 6)
    assert CostModel(graph).dense.macs == by_hand


def test_bilinear_reads_both_inputs(net):
    """One weight read along two axes: a gate on either alone would leave the other channels in."""
    model = net(
        lambda self, x, y: self.c(self.both(self.a(x), self.b(y)).relu()),
        a=nn.Linear(5, 8), b=nn.Linear(6, 7), both=nn.Bilinear(8, 7, 12), c=nn.Linear(12, 2),
    )  # fmt: skip
    graph = tb.trace(model, (drawn(3, 5), drawn(3, 6)))
    assert roles(graph, "consumes") == {"a": [("both.weight", 1)], "b": [("both.weight", 2)], "both": [("c.weight", 1)]}
    assert graph.n_atoms == 8 + 7 + 12
    check_surgery(model, (drawn(3, 5), drawn(3, 6)), **HALF)


def test_bilinear_counts_every_product(net):
    model = net(lambda self, x: self.c(self.both(x, x)), both=nn.Bilinear(4, 4, 6), c=nn.Linear(6, 2))
    result = tb.prune(model, drawn(3, 4), budget=tb.Budget(widths={"both": 3}))
    assert result.cost.before.macs == 3 * (6 * 4 * 4 + 6 * 2)
    assert result.cost.after.macs == 3 * (3 * 4 * 4 + 3 * 2)
