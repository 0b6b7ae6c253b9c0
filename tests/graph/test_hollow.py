"""Passes without values: forms are PyTorch's own, looking at values ends such a pass, what it shows is proved."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import torchbonsai as tb
from torchbonsai.graph import hollow
from torchbonsai.graph.trace import observe

aten = torch.ops.aten


def form(value):
    tensors = value if isinstance(value, tuple) else (value,)
    return [(tuple(t.shape), t.stride(), t.dtype) for t in tensors]


def picture(layout: str) -> torch.Tensor:
    x = torch.randn(2, 6, 9, 7)
    return x.to(memory_format=torch.channels_last) if layout == "channels_last" else x


CALLS = {
    "strided": lambda x: (
        aten.convolution.default,
        x,
        torch.randn(8, 6, 3, 3),
        None,
        [2, 1],
        [1, 0],
        [1, 1],
        False,
        [0],
        1,
    ),
    "dilated": lambda x: (aten.convolution.default, x, torch.randn(8, 6, 3, 3), None, [1], [2], [2], False, [0], 1),
    "transposed": lambda x: (aten.convolution.default, x, torch.randn(6, 4, 3, 3), None, [2], [1], [1], True, [1], 1),
    "depthwise": lambda x: (aten.convolution.default, x, torch.randn(6, 1, 5, 5), None, [1], [2], [1], False, [0], 6),
    "train norm": lambda x: (aten.native_batch_norm.default, x, None, None, *moments(), True, 0.1, 1e-5),
    "eval norm": lambda x: (aten.native_batch_norm.default, x, None, None, *moments(), False, 0.1, 1e-5),
    "layer norm": lambda x: (aten.native_layer_norm.default, x.permute(0, 2, 3, 1), [6], None, None, 1e-5),
    "relu": lambda x: (aten.relu.default, x),
    "add": lambda x: (aten.add.Tensor, x, x),
    "scale": lambda x: (aten.mul.Tensor, x, torch.randn(6, 1, 1)),
    "cat": lambda x: (aten.cat.default, [x, x[:, :2].contiguous()], 1),
    "max pool": lambda x: (aten.max_pool2d_with_indices.default, x, [3, 3], [2, 2], [1, 1]),
    "mean pool": lambda x: (aten._adaptive_avg_pool2d.default, x, [1, 1]),
    "softmax": lambda x: (aten._softmax.default, x, 1, False),
    "linear": lambda x: (aten.linear.default, x, torch.randn(5, 7)),
    "addmm": lambda x: (aten.addmm.default, torch.randn(5), torch.randn(3, 4), torch.randn(4, 5)),
    "bmm": lambda x: (aten.bmm.default, torch.randn(2, 3, 4), torch.randn(2, 4, 5)),
    "attention": lambda x: (aten._scaled_dot_product_flash_attention_for_cpu.default, *heads()),
    "attention, heads inside": lambda x: (aten._scaled_dot_product_flash_attention_for_cpu.default, *heads_inside()),
}


def moments():
    return torch.zeros(6), torch.ones(6)


def heads():
    return torch.randn(2, 3, 7, 4), torch.randn(2, 3, 9, 4), torch.randn(2, 3, 9, 4)


def heads_inside():
    return torch.randn(2, 7, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", CALLS)
def test_an_answer_has_the_form_of_the_ops_own_result(name, layout):
    func, *args = CALLS[name](picture(layout))
    with torch.no_grad():
        answered = hollow.answer(func, args, {})
        assert answered is not None or layout == "channels_last"
        assert answered is None or form(answered) == form(func(*args))


def test_sizes_that_do_not_fit_are_left_to_the_op():
    x, w = torch.randn(1, 5, 8, 8), torch.randn(4, 6, 3, 3)
    assert hollow.answer(aten.convolution.default, (x, w, None, [1], [0], [1], False, [0], 1), {}) is None
    assert hollow.answer(aten.mm.default, (torch.randn(2, 3), torch.randn(4, 5)), {}) is None


class LooksAtValues(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        y = torch.relu(self.a(x))
        if y.sum() > 0:  # zeros would take the other way
            y = self.b(y)
        return self.c(y)


def test_a_forward_that_looks_at_values_is_traced_for_real():
    torch.manual_seed(0)
    graph = observe(LooksAtValues(), torch.randn(4, 6))
    assert not graph.evidence.hollow
    assert "b.weight" in graph.evidence.order
    assert [g.name for g in graph.groups] == ["a", "b"]


class TakesAnotherWayOnZeros(nn.Module):
    """Reads values behind the dispatcher's back, so that a hollow pass cannot notice."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        y = torch.relu(self.a(x))
        return self.c(self.b(y) if y.numpy().any() else torch.tanh(y))


def test_what_a_hollow_pass_shows_is_held_against_a_real_one():
    torch.manual_seed(0)
    net, x = TakesAnotherWayOnZeros().eval().requires_grad_(False), torch.randn(4, 6)
    assert observe(net, x).evidence.hollow
    assert "b.weight" not in observe(net, x).evidence.order
    result = tb.prune(net, x, budget=tb.Budget(channels=0.5), scope="uniform")
    assert not result.graph.evidence.hollow
    assert [g.name for g in result.graph.groups] == ["a", "b"]
    assert result.verification.exact
    assert result.model.b.weight.shape == (4, 4)


def test_hollow_and_real_passes_give_the_same_graph():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 5)
    )
    x = torch.randn(2, 3, 8, 8)
    a, b = observe(net, x, hollow=True), observe(net, x, hollow=False)
    assert a.evidence.hollow
    assert not b.evidence.hollow
    assert a.explain() == b.explain()
    assert [(p.op, p.constant) for p in a.products] == [(p.op, p.constant) for p in b.products]


@pytest.mark.parametrize("of_weights", [False, True])
def test_strides_of_axes_of_one_element_decide_the_layout(of_weights: bool) -> None:
    """(n, 1, h, w), and a 1x1 kernel, can be contiguous and channels last at once; convolutions take them for the
    latter, and reshape then copies."""
    kernel, before = (1, 4) if of_weights else (3, 1)
    net = nn.Sequential(
        nn.Conv2d(before, 8, kernel), nn.ReLU(), nn.Conv2d(8, 10, 3), nn.MaxPool2d(2), nn.Flatten(), nn.LazyLinear(5)
    )
    x = torch.randn(2, before, 12, 12)
    net(x)
    if of_weights:
        net = net.to(memory_format=torch.channels_last)
    else:
        x = x.as_strided(x.shape, (144, 1, 12, 1))
        assert x.is_contiguous()
    for _ in range(2):
        result = tb.prune(net, x, budget=tb.Budget(widths={"2": 7}))
        assert result.verification.exact
        assert result.model[2].out_channels == 7
        assert {group.name: group.size for group in result.graph.groups} == {"0": 8, "2": 10}
