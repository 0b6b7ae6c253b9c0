"""Networks that once were cut where they must not be, or refused where they need not be: graph and proof."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torchbonsai as tb
from torchbonsai.core.errors import TraceError


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
