"""Small forms of what networks of the zoo benchmark taught the tracer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import torchbonsai as tb
from torchbonsai.core.errors import BudgetError
from torchbonsai.surgery import settle
from torchbonsai.testing import check_surgery

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


class TrainOnlyHead(nn.Module):
    """A head that exists in training alone and needs a larger picture than the rest does."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, stride=2)
        self.body = nn.Conv2d(64, 64, 3)
        self.narrow, self.wide = nn.Conv2d(64, 12, 1), nn.Conv2d(12, 8, 40)
        self.head, self.aux = nn.Linear(64, 2), nn.Linear(8, 2)

    def forward(self, x):
        x = self.body(self.stem(x).relu()).relu()
        out = self.head(x.mean((2, 3)))
        return (out, self.aux(self.wide(self.narrow(x)).mean((2, 3)))) if self.training else out


def test_a_head_of_training_that_does_not_run_on_the_crop_is_traced_on_the_whole_picture():
    torch.manual_seed(0)
    x = torch.randn(1, 3, 128, 128)
    result = tb.prune(TrainOnlyHead(), x, budget=HALF, scope="uniform")
    assert any(log.crop for log in result.graph.evidence.proofs)  # or the test tests nothing
    assert result.model.narrow.out_channels == 6
    assert [o.shape for o in result.model.train()(x)] == [(1, 2), (1, 2)]


def test_what_a_broken_train_pass_has_reached_stays_whole():
    torch.manual_seed(0)
    x = torch.randn(1, 3, 40, 40)  # too small for the head of training, so that nobody knows what reads `narrow`
    result = tb.prune(TrainOnlyHead(), x, budget=HALF, scope="uniform")
    assert result.model.body.out_channels == 32
    assert result.model.narrow.out_channels == 12
    assert any("train mode" in note for note in result.notes)


class Remembering(nn.Module):
    """Keeps what it made of a parameter in eval mode, and uses it in the next forward."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.scale = nn.Parameter(torch.randn(8))
        self.head = nn.Linear(8, 2)
        self.kept = {}

    def forward(self, x):
        x = self.norm(self.conv(x)).mean((2, 3))
        if "bias" not in self.kept:
            self.kept["bias"] = torch.sigmoid(self.scale)[None]
        return self.head(x * self.kept["bias"])

    def train(self, mode=True):
        self.kept = {}
        return super().train(mode)


def test_a_forward_that_keeps_what_it_computed_is_verified_from_the_start_each_time():
    torch.manual_seed(0)
    result = tb.prune(Remembering(), torch.randn(1, 3, 8, 8), budget=HALF)
    assert result.model.conv.out_channels == 4
    assert result.verification.exact


class Mixed(nn.Module):
    """Parts of unequal widths, whose sizes are a list of the module."""

    def __init__(self, *sizes):
        super().__init__()
        self.sizes = list(sizes)
        self.expand = nn.Conv2d(12, sum(sizes), 1)
        self.parts = nn.ModuleList(nn.Conv2d(n, n, 3, padding=1, groups=n) for n in sizes)
        self.project = nn.Conv2d(sum(sizes), 12, 1)

    def forward(self, x):
        parts = torch.split(self.expand(x), self.sizes, 1)
        return x + self.project(torch.cat([f(p) for f, p in zip(self.parts, parts, strict=True)], 1))


class Blocks(nn.Sequential):
    """Blocks of one class between a stem and a head."""

    def __init__(self, *blocks):
        super().__init__(nn.Conv2d(3, 12, 3), *blocks, nn.Conv2d(12, 4, 1))


def proofs_of(monkeypatch, net, x):
    """The result, and how many proofs it took."""
    count, real = [], settle.prove
    monkeypatch.setattr(settle, "prove", lambda *args, **kwargs: count.append(1) or real(*args, **kwargs))
    return tb.prune(net, x, budget=HALF, criterion=tb.criteria.Random(seed=0)), len(count)


def test_one_repair_mends_every_module_that_runs_the_same_line(monkeypatch):
    torch.manual_seed(0)
    blocks = [Mixed(8, 6, 4), Mixed(10, 8), Mixed(6, 6, 6, 4), Mixed(14, 8, 2), Mixed(4, 10), Mixed(6, 8, 6)]
    result, count = proofs_of(monkeypatch, Blocks(*blocks), torch.randn(1, 3, 8, 8))
    assert result.verification.exact
    assert not [f for f in result.graph.frozen if "baked" in f.reason]
    assert count <= 5  # alone, each block takes one or more


class Chained(nn.Module):
    """Equal parts of a width that is a number of the module, each added to the next."""

    def __init__(self, width):
        super().__init__()
        self.width = width
        self.expand = nn.Conv2d(12, 3 * width, 1)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.project = nn.Conv2d(3 * width, 12, 1)

    def forward(self, x):
        first, second, third = torch.split(self.expand(x), self.width, 1)
        a = self.convs[0](first)
        return x + self.project(torch.cat([a, self.convs[1](a + second), third], 1))


def test_one_assumption_holds_at_the_same_line_whatever_the_width(monkeypatch):
    torch.manual_seed(0)
    result, count = proofs_of(
        monkeypatch, Blocks(*(Chained(n) for n in (6, 8, 10, 12, 14, 16))), torch.randn(1, 3, 8, 8)
    )
    assert result.verification.exact
    assert not [f for f in result.graph.frozen if "baked" in f.reason]
    assert count <= 14


class Standardised(nn.Conv2d):
    """Weight standardisation by a batch norm over the flattened weight, as norm-free networks have it."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def forward(self, x):
        flat = self.weight.reshape(1, self.out_channels, -1)
        flat = nn.functional.batch_norm(flat, None, None, weight=self.gain.view(-1), training=True, momentum=0.0)
        return nn.functional.conv2d(x, flat.reshape_as(self.weight), self.bias, padding=1)


def test_weights_flattened_with_their_kernel_shrink_and_are_inexact():
    torch.manual_seed(0)
    net = nn.Sequential(Standardised(3, 8, 3), nn.ReLU(), Standardised(8, 12, 3), nn.ReLU(), nn.Conv2d(12, 4, 1))
    result = tb.prune(net, torch.randn(1, 3, 8, 8), budget=HALF, scope="uniform")
    assert (result.model[0].out_channels, result.model[2].out_channels) == (4, 6)
    assert not result.verification.exact
    assert "statistics over channels" in result.verification.reason


class Stacked(nn.Module):
    """Several vectors of features weighed by a convolution whose kernel of one runs along the features."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.weigh, self.head = nn.Linear(6, 8), nn.Linear(6, 8), nn.Conv1d(2, 1, 1), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.weigh(torch.stack([self.a(x), self.b(x)], 1)).squeeze(1))


def test_features_along_which_a_kernel_of_one_runs_leave_and_are_counted():
    torch.manual_seed(0)
    result = tb.prune(Stacked(), torch.randn(1, 6), budget=HALF)
    assert (result.model.a.out_features, result.model.b.out_features) == (4, 4)
    assert result.verification.exact
    assert (result.cost.before.macs, result.cost.after.macs) == (6 * 8 * 2 + 2 * 8 + 8 * 2, 6 * 4 * 2 + 2 * 4 + 4 * 2)


class Asserting(nn.Module):
    """A forward that says nothing when widths do not fit."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.a(x)
        assert x.shape[1] == 8
        return self.b(x)


def test_an_error_without_words_freezes_with_its_kind_as_the_reason():
    graph = tb.trace(Asserting(), torch.randn(1, 3, 8, 8))
    assert not graph.groups
    assert any("AssertionError" in f.reason for f in graph.frozen)


class Cascade(nn.Module):
    """One line cuts several layers at one number of the module."""

    def __init__(self, cut=6, width=12):
        super().__init__()
        self.cut, self.rest = cut, width - cut
        self.layers = nn.ModuleList(nn.Conv2d(12, width, 1) for _ in range(3))
        self.firsts = nn.ModuleList(nn.Conv2d(cut, 12, 1) for _ in range(3))
        self.seconds = nn.ModuleList(nn.Conv2d(width - cut, 12, 1) for _ in range(3))

    def forward(self, x):
        for layer, one, two in zip(self.layers, self.firsts, self.seconds, strict=True):
            first, second = torch.split(layer(x), [self.cut, self.rest], 1)
            x = x + one(first) + two(second).relu()
        return x


def test_a_number_that_several_ops_of_one_module_share_settles_in_few_proofs(monkeypatch):
    torch.manual_seed(0)
    count, real = [], settle.prove
    monkeypatch.setattr(settle, "prove", lambda *args, **kwargs: count.append(1) or real(*args, **kwargs))
    with pytest.raises(BudgetError):  # three layers that keep what they keep, and one number: nothing can leave
        tb.prune(
            Blocks(Cascade(), Cascade(4)), torch.randn(1, 3, 8, 8), budget=HALF, criterion=tb.criteria.Random(seed=0)
        )
    assert len(count) < 150


class Table(nn.Module):
    """A table of coordinates, a buffer of several axes, through linear layers to a factor for every channel."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
        self.register_buffer("table", torch.randn(1, 3, 5, 2, generator=torch.Generator().manual_seed(0)))
        self.inner, self.outer = nn.Linear(2, 6), nn.Linear(6, 8)

    def forward(self, x):
        told = self.outer(self.inner(self.table).relu()).flatten(0, 2)[7]
        return self.head(self.stem(x).relu() * told[:, None, None])


def test_axes_of_a_table_that_a_linear_layer_flattens_do_not_freeze_what_it_makes():
    """Swin v2, ConViT: two axes of the buffer become one, and only the large pass took the third for itself."""
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    sizes = {g.name: g.size for g in tb.trace(Table(), x).groups}
    assert (sizes["inner"], sizes["outer"]) == (6, 8)
    check_surgery(Table(), x, shares=(0.5,), seeds=(0, 1))


def test_one_place_of_an_axis_is_another_place_once_the_axis_is_shorter():
    """The proof followed a select() without asking which channel it now reads."""
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    graph = tb.trace(Table(), x)
    assert not [b for g in graph.groups for b in g.bindings if b.name == "table" and b.axis == 1]
    assert {f.name for f in graph.frozen if "select" in f.reason} == {"table"}
