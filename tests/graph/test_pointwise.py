"""Every op that is taken for pointwise is: changing one element of an operand changes that element of the output."""

import pytest
import torch

import torchbonsai as tb
from torchbonsai.graph.rules.registry import UNTAGGED_POINTWISE, lookup

aten = torch.ops.aten
X = torch.linspace(-1.5, 1.5, 12, dtype=torch.float64).reshape(3, 4)
ONES = torch.ones(3, 4, dtype=torch.float64)
MASK = X > 0.3


def seeded(function):
    def run(x):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return function(x)

    return run


CALLS = {
    "hardswish": aten.hardswish,
    "hardswish_": lambda x: aten.hardswish_(x.clone()),
    "mish": aten.mish,
    "mish_": lambda x: aten.mish_(x.clone()),
    "log_sigmoid_forward": aten.log_sigmoid_forward,
    "native_dropout": seeded(lambda x: aten.native_dropout(x, 0.5, True)),
    "_to_copy": lambda x: aten._to_copy(x, dtype=torch.float32),
    "copy_": lambda x: aten.copy_(torch.zeros_like(x), x),
    "detach": aten.detach,
    "alias": aten.alias,
    "clone": aten.clone,
    "contiguous": aten.contiguous,
    "lift": aten.lift,
    "lift_fresh": aten.lift_fresh,
    "lift_fresh_copy": aten.lift_fresh_copy,
    "dropout": seeded(lambda x: aten.dropout(x, 0.5, True)),
    "bernoulli_": seeded(lambda x: aten.bernoulli_(x.clone(), x.abs() / 2)),
    "fill_": lambda x: aten.fill_(x.clone(), 2.0),
    "fill": lambda x: aten.fill(x, 2.0),
    "zero": aten.zero,
    "zero_": lambda x: aten.zero_(x.clone()),
    "hardtanh": aten.hardtanh,
    "hardtanh_": lambda x: aten.hardtanh_(x.clone()),
    "relu6": aten.relu6,
    "celu": aten.celu,
    "celu_": lambda x: aten.celu_(x.clone()),
    "_conj_physical": lambda x: aten._conj_physical(x.to(torch.complex128)).real,
    "_prelu_kernel": lambda x: aten._prelu_kernel(x, ONES * 0.3),
    "rrelu_with_noise": seeded(lambda x: aten.rrelu_with_noise(x, ONES.clone(), 0.1, 0.3, False)),
    "rrelu_with_noise_": seeded(lambda x: aten.rrelu_with_noise_(x.clone(), ONES.clone(), 0.1, 0.3, False)),
    "masked_fill": lambda x: aten.masked_fill(x, MASK, 7.0),
    "masked_fill_": lambda x: aten.masked_fill_(x.clone(), MASK, 7.0),
    "where": lambda x: aten.where(MASK, x, ONES),
}


def outputs(value):
    return [value] if isinstance(value, torch.Tensor) else [v for v in value if isinstance(v, torch.Tensor)]


def reached(function, x, at):
    """Positions of outputs of x's shape that change when x[at] does, over both directions of change."""
    found = torch.zeros(x.shape, dtype=torch.bool)
    for step in (0.37, -0.37):
        other = x.clone()
        other[at] += step
        for a, b in zip(outputs(function(x.clone())), outputs(function(other)), strict=True):
            if a.shape == x.shape:
                found |= ~((a == b) | (a.isnan() & b.isnan()))
    return found


def test_every_listed_name_has_a_call():
    assert {f"aten::{name}" for name in CALLS} == UNTAGGED_POINTWISE


@pytest.mark.parametrize("name", CALLS)
def test_listed_ops_are_pointwise_in_numbers(name):
    touched = 0
    for row in range(3):
        for column in range(4):
            found = reached(CALLS[name], X, (row, column))
            found_elsewhere = found.clone()
            found_elsewhere[row, column] = False
            assert not found_elsewhere.any(), f"{name}: element {(row, column)} reaches {found.nonzero().tolist()}"
            touched += int(found[row, column])
    constant = name in ("fill", "fill_", "zero", "zero_")
    assert (touched == 0) == constant, "an op that ignores its input shows nothing"


def tagged_unary():
    """Every functional ATen op with PyTorch's tag that takes one tensor and otherwise defaults."""
    for name in sorted(dir(aten)):
        packet = getattr(aten, name)
        if not hasattr(packet, "overloads"):
            continue
        for overload in packet.overloads():
            op = getattr(packet, overload)
            first, *rest = op._schema.arguments or [None]
            fits = first is not None and str(first.type) == "Tensor" and all(a.has_default_value() for a in rest)
            if fits and torch.Tag.pointwise in op.tags and not op._schema.is_mutable:
                yield op


def test_tagged_unary_ops_are_pointwise_in_numbers():
    x, seen = torch.linspace(0.05, 0.6, 6, dtype=torch.float64), 0
    for op in tagged_unary():
        try:
            op(x)
        except (RuntimeError, NotImplementedError):
            continue  # wants integers or complex numbers
        for at in (0, 3):
            found = reached(seeded(op), x, at)
            found[at] = False
            assert not found.any(), f"{op} is tagged pointwise and is not"
        seen += 1
    assert seen > 60


MIXING = {
    "cumsum in place": lambda x: x.clone().cumsum_(1),
    "places of running maxima": lambda x: x + x.cummax(1).indices,
    "sort": lambda x: x.sort(1).values,
    "topk": lambda x: x.topk(12, 1).values,
    "fft": lambda x: torch.fft.fft(x, dim=1).real,
    "gather": lambda x: x.gather(1, x.argsort(1)),
    "scatter_add": lambda x: torch.zeros_like(x).scatter_add(1, x.argsort(1), x),
}


@pytest.mark.parametrize("name", MIXING)
def test_ops_that_mix_channels_freeze_them(around, pictures, name):
    """Their outputs have the shape of their input: shape says nothing."""
    model = around(lambda self, x: MIXING[name](x))
    graph = tb.trace(model, pictures)
    assert "before" not in graph.by_name
    frozen = next(f for f in graph.frozen if f.name == "before")
    assert frozen.size == 12
    assert frozen.source.op.startswith("aten.")
    assert "MIXING[name](x)" in frozen.source.code or "lambda x" in frozen.source.code


def test_an_op_of_the_users_own_freezes_until_it_has_a_rule(around, pictures):
    library = torch.library.Library("bonsai_tests", "DEF")
    try:
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda x: 2 * x, "CompositeExplicitAutograd")
        op = torch.ops.bonsai_tests.twice
        assert lookup(op.default) == ("unknown", None)
        graph = tb.trace(around(lambda self, x: op(x)), pictures)
        frozen = next(f for f in graph.frozen if f.name == "before")
        assert "bonsai_tests.twice" in frozen.reason
        assert "has no rule" in frozen.reason
        assert frozen.source.code == "graph = tb.trace(around(lambda self, x: op(x)), pictures)"
    finally:
        library._destroy()


def test_a_constant_is_added_to_every_channel(around, pictures):
    model = around(lambda self, x: x * torch.full((1, 12, 1, 1), 0.5, device=x.device) + 1.0)
    graph = tb.trace(model, pictures)
    assert graph.frozen[0].name == "before", "a literal 12 holds the width"
    free = around(lambda self, x: x * torch.full((1, x.shape[1], 1, 1), 0.5, device=x.device) + 1.0)
    assert tb.trace(free, pictures).by_name["before"].size == 12
