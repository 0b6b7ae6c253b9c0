"""Contractions: the contracted labels end, labels of a weight's output axis begin."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from torchbonsai.graph.call import Call, Letters
from torchbonsai.graph.channel_graph import Ints
from torchbonsai.graph.labels import Field, Fields
from torchbonsai.graph.rules.registry import rule

Operand = tuple[torch.Tensor, Letters]


def einsum(call: Call, operands: list[Operand], contracted: Letters, out: torch.Tensor, weight: int | None) -> Fields:
    """out = the operands multiplied and summed over `contracted`; letter k >= 0 is axis k of `out`."""
    joined = call.join(operands, frozenset(contracted))
    sizes = {x: n for t, letters in operands for x, n in zip(letters, t.shape, strict=True)}
    call.count(joined, sizes, operands[weight][0] if weight is not None else None)
    for tensor, letters in operands:
        for axes, labels in call.fields(tensor):
            if not any(letters[a] in contracted for a in axes):
                call.produce(tensor, labels)
    return joined.fields


def add_bias(call: Call, fields: Fields, bias: torch.Tensor | None, axis: int) -> None:
    """A bias (n,) is added along an output axis that carries `fields`."""
    if bias is None:
        return
    mine = call.fields(bias)
    labels = next((f.labels for f in fields if f.axes == (axis,)), None)
    if labels is not None and mine and mine[0].labels.shape == labels.shape:
        call.unify(labels, mine[0].labels)
    elif labels is not None and bias.numel() > 1:
        call.freeze(labels, f"{call.name} adds a bias without channel labels")
    else:
        call.freeze(bias, f"{call.name} adds it to channels that are frozen")


@rule("aten::mm", kind="contraction")
def mm(call: Call) -> None:
    """(n, k) @ (k, m)."""
    a, b = call.args[:2]
    call.give(call.out, einsum(call, [(a, (0, -1)), (b, (-1, 1))], (-1,), call.out, _weight(call, a, b)))


@rule("aten::addmm", kind="contraction")
def addmm(call: Call) -> None:
    """bias + (n, k) @ (k, m)."""
    bias, a, b = call.args[:3]
    fields = einsum(call, [(a, (0, -1)), (b, (-1, 1))], (-1,), call.out, _weight(call, a, b))
    if bias.dim() == 1:
        add_bias(call, fields, bias, 1)
        call.give(call.out, fields)
    else:
        _add(call, bias, fields)


@rule("aten::bmm", kind="contraction")
def bmm(call: Call) -> None:
    """(b, n, k) @ (b, k, m)."""
    a, b = call.args[:2]
    call.give(call.out, einsum(call, [(a, (0, 1, -1)), (b, (0, -1, 2))], (-1,), call.out, _weight(call, a, b)))


@rule("aten::baddbmm", kind="contraction")
def baddbmm(call: Call) -> None:
    """c + (b, n, k) @ (b, k, m)."""
    c, a, b = call.args[:3]
    _add(call, c, einsum(call, [(a, (0, 1, -1)), (b, (0, -1, 2))], (-1,), call.out, _weight(call, a, b)))


@rule("aten::mv", kind="contraction")
def mv(call: Call) -> None:
    """(n, k) @ (k,)."""
    a, b = call.args[:2]
    call.give(call.out, einsum(call, [(a, (0, -1)), (b, (-1,))], (-1,), call.out, _weight(call, b, a)))


@rule("aten::dot", "aten::vdot", kind="contraction")
def dot(call: Call) -> None:
    """(k,) @ (k,)."""
    a, b = call.args[:2]
    call.give(call.out, einsum(call, [(a, (-1,)), (b, (-1,))], (-1,), call.out, None))


@rule("aten::linear", "aten::mkldnn_linear", "mkldnn::_linear_pointwise", kind="contraction")
def linear(call: Call) -> None:
    """(…, k) with a weight (m, k) and a bias (m,)."""
    x, w = call.args[:2]
    last = x.dim() - 1
    fields = einsum(call, [(x, (*range(last), -1)), (w, (last, -1))], (-1,), call.out, 1)
    add_bias(call, fields, call.arg(2, "bias"), last)
    call.give(call.out, fields)


@rule("aten::_trilinear", kind="contraction")
def trilinear(call: Call) -> None:
    """Three operands, each unsqueezed at its `expand` dims, multiplied and summed over `sumdim` (nn.Bilinear)."""
    operands, expands, summed = call.args[:3], call.args[3:6], set(call.args[6])
    dims = operands[0].dim() + len(expands[0])
    kept = [d for d in range(dims) if d not in summed]
    letter = {d: -1 - d if d in summed else kept.index(d) for d in range(dims)}
    named = [tuple(letter[d] for d in range(dims) if d not in expand) for expand in expands]
    weight = next((i for i, t in enumerate(operands) if call.shadow(t).leaf is not None), None)
    contracted = tuple(letter[d] for d in sorted(summed))
    call.give(call.out, einsum(call, list(zip(operands, named, strict=True)), contracted, call.out, weight))


def _weight(call: Call, a: torch.Tensor, b: torch.Tensor) -> int | None:
    if call.shadow(b).leaf is not None:
        return 1
    return 0 if call.shadow(a).leaf is not None else None


def _add(call: Call, extra: torch.Tensor, fields: Fields) -> None:
    """Add a tensor to the product: pointwise, with the product's fields known."""
    out = call.out
    out._bonsai = replace(call.shadow(out), fields=fields)
    dims = out.dim()
    call.give(out, call.join([(out, tuple(range(dims))), (extra, tuple(range(dims - extra.dim(), dims)))]).fields)


@rule("aten::convolution", "aten::_convolution", "aten::convolution_overrideable", kind="contraction")
def convolution(call: Call) -> None:
    """x (n, c, *s), weight (o, c / g, *k), transposed: (c, o / g, *k); bias (o,)."""
    x, w, bias = call.args[:3]
    transposed, groups = bool(call.args[6]), int(call.args[8])
    call.freeze(tuple(f for f in call.fields(w) if min(f.axes) > 1), "the kernel's own size")
    channels = w.shape[0] if transposed else x.shape[1]
    form = call.variant("plain" if groups == 1 else "depthwise" if channels == groups else "grouped")
    still = _still(call) if form == "plain" else set()
    call.pin(x, [a for a in range(x.dim()) if a != 1 and a not in still], f"{call.name} slides over the axis")
    if form == "plain":
        fields = _plain(call, x, w, transposed)
    elif form == "depthwise":
        fields = _depthwise(call, x, w, groups, transposed)
    else:
        fields = _grouped(call, x, w, groups, transposed)
    add_bias(call, fields, bias, 1)
    apart = tuple(f for f in call.fields(x) if still.issuperset(f.axes))
    call.give(call.out, (*fields, *apart))


def _still(call: Call) -> set[int]:
    """The axes along which a kernel of one goes from place to place: what lies there passes."""
    x, w = call.args[:2]
    form = [[*v, *v[-1:] * x.dim()] for v in call.args[3:6]]  # stride, padding, dilation; one number may stand for all
    extra = [*call.args[7], *call.args[7][-1:] * x.dim()]
    plain = [(s, p, e) == (1, 0, 0) for s, p, e in zip(form[0], form[1], extra, strict=False)]
    return {2 + k for k in range(x.dim() - 2) if w.shape[2 + k] == 1 and plain[k]}


def _plain(call: Call, x: torch.Tensor, w: torch.Tensor, transposed: bool) -> Fields:
    spatial = tuple(range(2, x.dim()))
    kernel = tuple(range(-2, -2 - len(spatial), -1))
    shape = (-1, 1, *kernel) if transposed else (1, -1, *kernel)
    slid = x if transposed else call.out  # a transposed convolution multiplies once per input position
    joined = call.join([(x, (0, -1, *(s + 100 for s in spatial))), (w, shape)], frozenset((-1,)))
    sizes = {0: x.shape[0], -1: x.shape[1], 1: call.out.shape[1], 2: math.prod(slid.shape[2:])}
    sizes |= dict(zip(kernel, w.shape[2:], strict=True))
    sizes[2] //= math.prod(x.shape[a - 100] for letters, _ in joined.extents for a in letters if a > 100)
    call.count(joined, sizes, w)
    for axes, labels in call.fields(w):
        if axes == ((1,) if transposed else (0,)):
            call.produce(w, labels)
    return tuple(f for f in joined.fields if f.axes == (1,))


def _labels(call: Call, tensor: torch.Tensor, axis: int, what: str) -> Ints:
    """The labels along one axis; zeros where it has none or shares them with another axis."""
    zeros = np.zeros(tensor.shape[axis], np.int64)
    for axes, labels in call.fields(tensor):
        if axes == (axis,):
            return labels
        if axis in axes:
            call.freeze(labels, f"{call.name}: {what} shares its labels with another axis")
    return zeros


def _join_labels(call: Call, a: Ints, b: Ints, what: str) -> Ints:
    """Unify two label arrays; where one side is frozen, so is the other."""
    if not a.any():
        call.freeze(b, what)
    elif not b.any():
        call.freeze(a, what)
    else:
        call.unify(a, b)
        return a
    return np.zeros_like(a)


def _depthwise(call: Call, x: torch.Tensor, w: torch.Tensor, groups: int, transposed: bool) -> Fields:
    """One input channel a group, o / g outputs each: nothing is summed over channels."""
    call.freeze(_labels(call, w, 1, "weight"), "the axis within a group of a depthwise weight")
    spread = call.out.shape[1] // groups
    inputs = np.repeat(_labels(call, x, 1, "input"), spread)
    own = _labels(call, w, 0, "weight")
    own = np.repeat(own, spread) if transposed else own
    out = _join_labels(call, inputs, own, f"{call.name} (depthwise) meets frozen channels")
    slid = x if transposed else call.out
    constant = x.shape[0] * math.prod(slid.shape[2:]) * math.prod(w.shape[2:])
    extent = out if out.any() else np.zeros(call.out.shape[1], np.int64)
    call.add_product(constant, (extent,), w)
    return (Field((1,), out),) if out.any() else ()


def _grouped(call: Call, x: torch.Tensor, w: torch.Tensor, groups: int, transposed: bool) -> Fields:
    """Position j leaves in every group, in and out, so that every group keeps the same count."""
    inputs = _labels(call, x, 1, "input").reshape(groups, -1)
    if transposed:
        eaten, made = _labels(call, w, 0, "weight").reshape(groups, -1), _labels(call, w, 1, "weight")
        outputs = np.tile(made, groups)
    else:
        eaten = np.broadcast_to(_labels(call, w, 1, "weight"), inputs.shape)
        made = _labels(call, w, 0, "weight").reshape(groups, -1)
        call.unify(made, np.broadcast_to(made[:1], made.shape))
        outputs = made.ravel()
    consumed = _join_labels(call, inputs, eaten, f"{call.name} contracts it with frozen channels")
    if consumed.any():
        call.unify(consumed, np.broadcast_to(consumed[:1], consumed.shape))
        call.gate(x, (1,), consumed.ravel())
        for owner in call.tracer.space.owners_of(eaten):
            if not call.shadow(w).dynamic:
                call.tracer.role(owner, "consumes")
    call.produce(w, made)
    slid = x if transposed else call.out
    constant = x.shape[0] * math.prod(slid.shape[2:]) * math.prod(w.shape[2:])
    extents = (eaten.ravel(), made.ravel()) if transposed else (np.ascontiguousarray(eaten[0]), made.ravel())
    call.add_product(constant, extents, w)
    return (Field((1,), outputs),) if outputs.any() else ()
