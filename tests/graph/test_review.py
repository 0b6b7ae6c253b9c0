"""Networks that once were cut where they must not be, or refused where they need not be: graph and proof."""

import dataclasses
import random
from collections import namedtuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torchbonsai as tb
from torchbonsai.core.errors import TraceError
from torchbonsai.testing.references import poisoned, relative_error


def two(forward, net, middle=8, out=5):
    return net(forward, a=nn.Conv2d(3, middle, 3), b=nn.Conv2d(middle, out, 3))


@dataclasses.dataclass
class Answer:
    logits: torch.Tensor


class Slotted:
    __slots__ = ("logits",)

    def __init__(self, logits):
        self.logits = logits


@pytest.mark.parametrize("wrapped", [Answer, Slotted, lambda y: {"deep": [Answer(y)]}])
def test_outputs_inside_objects_are_never_narrowed(net, pictures, wrapped):
    model = two(lambda s, x: wrapped(s.b(F.relu(s.a(x)))), net)
    result = tb.prune(model, pictures, budget=tb.Budget(channels=0.5))
    assert result.model.b.out_channels == 5
    assert result.model.a.out_channels == 4


def test_a_forward_that_returns_no_tensor_is_refused(net, pictures):
    with pytest.raises(TraceError, match="at least one tensor"):
        tb.trace(two(lambda s, x: float(s.b(F.relu(s.a(x))).sum()), net), pictures)


def test_what_no_pass_has_read_stays_whole(net, pictures):
    model = two(lambda s, x: s.b(F.relu(s.a(x))), net)
    model.extra = nn.Conv2d(7, 9, 1)
    model.note = torch.ones(6)
    graph = tb.trace(model, pictures)
    assert [g.name for g in graph.groups] == ["a"]
    assert graph.unreached == ("extra.weight", "extra.bias")


def test_a_write_through_data_does_not_reach_the_given_weights(net, pictures):
    def forward(s, x):
        s.a.weight.data.clamp_(-0.01, 0.01)
        return s.b(F.relu(s.a(x)))

    model = two(forward, net)
    before = model.a.weight.clone()
    with pytest.raises(TraceError, match=r"writes into 'a\.weight'"):
        tb.trace(model, pictures)
    assert torch.equal(model.a.weight, before)


def test_lazy_parameters_are_refused():
    with pytest.raises(TraceError, match="lazy"):
        tb.trace(nn.Sequential(nn.LazyConv2d(8, 3)), torch.randn(1, 3, 8, 8))


def test_grouped_queries_freeze_and_do_not_crash(net):
    def heads(t, n):
        return t.unflatten(-1, (n, -1)).transpose(1, 2)

    def forward(s, x):
        y = F.scaled_dot_product_attention(heads(s.q(x), 4), heads(s.k(x), 2), heads(s.v(x), 2), enable_gqa=True)
        return s.o(F.relu(s.m(y.transpose(1, 2).flatten(2))))

    sizes = {"q": (3, 16), "k": (3, 8), "v": (3, 8), "m": (16, 6), "o": (6, 4)}
    model = net(forward, **{name: nn.Linear(*size) for name, size in sizes.items()})
    graph = tb.trace(model, torch.randn(2, 7, 3))
    assert [g.name for g in graph.groups] == ["m"]


HALF = tb.Budget(channels=0.5)


@pytest.mark.parametrize(
    "op",
    [
        lambda s, x: x * torch.full_like(x, x.shape[1]),
        lambda s, x: x * x.new_full((2, 1, 8, 8), x.shape[1]),
        lambda s, x: x / torch.tensor(x.shape[1]),
        lambda s, x: x / torch.sqrt(torch.tensor(float(x.shape[1]))),
        lambda s, x: x * torch.from_numpy(np.array([1 / x.shape[1]], dtype=np.float32)),
    ],
)
def test_a_width_inside_a_tensor_is_found_and_flagged(around, pictures, op):
    result = tb.prune(around(op), pictures, budget=HALF)
    assert result.model.before.out_channels == 6
    assert not result.verification.exact
    assert "a width is used as a value" in result.verification.reason


def test_zeros_of_the_channels_size_are_no_width_used_as_a_value(around, pictures):
    result = tb.prune(around(lambda s, x: x + torch.zeros(2, x.shape[1], 1, 1)), pictures, budget=HALF)
    assert result.verification.exact
    assert result.model.before.out_channels == 6


@pytest.mark.parametrize("norm", [F.instance_norm, lambda t: F.batch_norm(t, None, None, training=True)])
def test_statistics_of_a_norm_over_another_axis_are_flagged(net, pictures, norm):
    model = net(
        lambda s, x: s.after(norm(s.before(x).flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, (8, 8))),
        before=nn.Conv2d(3, 12, 3, padding=1),
        after=nn.Conv2d(12, 5, 1),
    )
    result = tb.prune(model, pictures, budget=HALF)
    assert "statistics over channels" in result.verification.reason


@pytest.mark.parametrize("answer", [lambda y: y.argmax(1), lambda y: y.max(1), lambda y: y.max(1)[1] * 2])
def test_channels_whose_positions_are_an_answer_stay(net, pictures, answer):
    result = tb.prune(two(lambda s, x: answer(s.b(F.relu(s.a(x)))), net, out=6), pictures, budget=HALF)
    assert result.model.b.out_channels == 6
    assert result.model.a.out_channels == 4


def test_the_largest_value_over_channels_may_lose_channels(around, pictures):
    result = tb.prune(around(lambda s, x: x * x.max(1, keepdim=True)[0]), pictures, budget=HALF)
    assert result.model.before.out_channels == 6
    assert "a max over channels" in result.verification.reason


EXACT = {
    "a map spread over channels": lambda s, x: x * torch.sigmoid(s.m(x)).expand_as(x),
    "squeeze_": lambda s, x: x.unsqueeze(1).squeeze_(1),
    "unsqueeze_": lambda s, x: x.mean((2, 3)).unsqueeze_(-1).unsqueeze_(-1),
    "nansum": lambda s, x: x.nansum((2, 3), keepdim=True),
    "fill_": lambda s, x: filled(x.clone()),
}


def filled(x):
    x[:, ::2, 1:3].fill_(0.5)
    return x


@pytest.mark.parametrize("name", EXACT)
def test_these_are_followed_exactly(around, pictures, name):
    model = around(EXACT[name], m=nn.Conv2d(12, 1, 1))
    result = tb.prune(model, pictures, budget=HALF)
    assert result.verification.exact
    assert result.model.before.out_channels == 6
    with torch.no_grad(), poisoned(model, result.plan) as sick:
        assert relative_error(result.model(pictures), sick(pictures)) < 1e-5


def test_a_forward_that_draws_its_way_is_followed_and_random_states_stay(net, pictures):
    def forward(s, x):
        y = F.relu(s.a(x))
        if s.training and (random.random() < 0.5) != (torch.rand(()).item() < 0.5):
            return s.b(s.n(y.mean((2, 3))))
        return s.b(s.n(F.relu(s.c(y)).mean((2, 3))))

    parts = {"a": nn.Conv2d(3, 8, 3), "c": nn.Conv2d(8, 8, 3), "n": nn.BatchNorm1d(8), "b": nn.Linear(8, 5)}
    for seed in range(4):
        random.seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            before = random.getstate(), torch.get_rng_state()
            result = tb.prune(net(forward, **parts), pictures[:1], budget=HALF)
            assert random.getstate() == before[0]
            assert torch.equal(torch.get_rng_state(), before[1])
        assert result.verification.exact
        assert result.cost.after.channels == result.cost.before.channels // 2


def test_noise_in_eval_mode_is_drawn_alike_in_both_networks(around, pictures):
    model = around(lambda s, x: x + torch.randn(x.shape[0], 1, 8, 8) * s.k, k=nn.Parameter(torch.ones(12, 1, 1)))
    assert tb.prune(model, pictures, budget=HALF).verification.exact


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weight_norm_passes_and_only_what_its_norm_sums_is_inexact(norm, pictures):
    model = nn.Sequential(norm(nn.Conv2d(3, 8, 3)), nn.ReLU(), nn.Conv2d(8, 4, 1))
    result = tb.prune(model, pictures, budget=HALF)
    assert result.verification.exact
    assert (result.model[0].out_channels, result.model[2].in_channels) == (4, 4)
    twice = tb.prune(nn.Sequential(nn.Conv2d(3, 8, 1), norm(nn.Conv2d(8, 4, 1))), pictures, budget=HALF)
    assert "weight norm" in twice.verification.reason


def test_an_embedding_loses_columns_not_rows(net):
    model = net(lambda s, x: s.b(s.e(x)), e=nn.Embedding(10, 8), b=nn.Linear(8, 5))
    result = tb.prune(model, torch.tensor([[1, 2, 9]]), budget=HALF)
    assert result.verification.exact
    assert tuple(result.model.e.weight.shape) == (10, 4)
    assert result.model.e.embedding_dim == 4


def test_named_tuples_are_inputs_and_outputs(net, pictures):
    pair = namedtuple("Pair", "image extra")
    model = two(lambda s, p: pair(s.b(F.relu(s.a(p.image))) + p.extra, p.extra), net)
    assert tb.prune(model, (pair(pictures, torch.ones(1)),), budget=HALF).verification.exact


def test_only_freezes_all_of_the_other_groups(net, pictures):
    def forward(s, x):
        k = s.k * 2
        y = s.a(x)
        y = torch.cat([y[:, : k.shape[0]] + k, y[:, k.shape[0] :]], 1)
        return s.c(F.relu(s.b(F.relu(y))))

    k = nn.Parameter(torch.ones(4, 1, 1))
    model = net(forward, k=k, a=nn.Conv2d(3, 8, 3), b=nn.Conv2d(8, 6, 3), c=nn.Conv2d(6, 4, 1))
    assert {g.name for g in tb.trace(model, pictures).groups} == {"a", "b"}
    result = tb.prune(model, pictures, budget=HALF, only="b")
    assert set(result.scores) == {"b"}
    assert result.model.a.out_channels == 8
