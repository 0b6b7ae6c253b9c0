"""Norms over channels: the labels pass, and are inexact, because a statistic changes when channels go."""

from __future__ import annotations

import numpy as np

from torchbonsai.graph.call import Call
from torchbonsai.graph.labels import Field
from torchbonsai.graph.rules.registry import rule


@rule("aten::native_layer_norm", "aten::layer_norm", "aten::_fused_rms_norm", "aten::rms_norm", kind="normalising")
def layer_norm(call: Call) -> None:
    """x (…, *normalized_shape); weight and bias (*normalized_shape,)."""
    x = call.tensors[0]
    first = x.dim() - len(call.args[1])
    operands = [(t, tuple(range(x.dim() - t.dim(), x.dim()))) for t in call.tensors]
    fields = call.join(operands).fields
    for f in fields:
        if max(f.axes) >= first:
            call.inexact(f.labels, f"{_kind(call)} takes its statistics over channels")
    apart = tuple(f for f in fields if max(f.axes) < first)
    for out in call.outputs:
        call.give(out, fields if out.shape == x.shape else apart)


def _kind(call: Call) -> str:
    return "RMSNorm" if "rms" in call.name else "LayerNorm"


@rule("aten::native_group_norm", "aten::group_norm", kind="normalising")
def group_norm(call: Call) -> None:
    """x (n, c, …); weight and bias (c,). Position j leaves in every group, inexact, or whole groups do, exact."""
    x = call.tensors[0]
    groups = int(call.args[6] if "native" in call.name else call.args[1])
    fields = call.join([(x, tuple(range(x.dim()))), *((t, (1,)) for t in call.tensors[1:])]).fields
    apart: tuple[Field, ...] = ()
    for f in fields:
        if f.axes == (1,):
            apart = _tie_groups(call, f.labels, groups)
        else:
            call.freeze(f.labels, f"{call.name} takes its statistics over the axis")
    call.give(call.outputs[0], tuple(f for f in fields if f.axes == (1,)))
    for out in call.outputs[1:]:  # mean and deviation, (n, groups)
        call.give(out, apart)


def _tie_groups(call: Call, labels: np.ndarray, groups: int) -> tuple[Field, ...]:
    """Tie what must leave together; the labels of the groups, where whole ones leave."""
    rows = labels.reshape(groups, -1)
    alone = call.variant("alone" if rows.shape[1] == 1 else "grouped") == "alone"
    if alone or call.blocks(rows.shape[1], groups) == "whole":
        call.unify(rows, np.broadcast_to(rows[:, :1], rows.shape))
        return (Field((1,), np.ascontiguousarray(rows[:, 0])),)
    call.unify(rows, np.broadcast_to(rows[:1], rows.shape))
    call.inexact(labels, "GroupNorm takes its statistics over channels")
    return ()


@rule("aten::_softmax", "aten::_log_softmax", "aten::softmax", "aten::_safe_softmax", kind="normalising")
def softmax(call: Call) -> None:
    """x of any shape, normalised along `dim`."""
    x = call.tensors[0]
    axis = int(call.args[1]) % max(x.dim(), 1)
    for f in call.fields(x):
        if axis in f.axes:
            call.inexact(f.labels, "softmax normalises over channels")
    call.give(call.outputs[0], tuple(Field(*f) for f in call.fields(x)))


@rule("aten::_weight_norm_interface", kind="normalising")
def weight_norm(call: Call) -> None:
    """v of any shape, g of size one but along `dim`: g v / |v|, the norm taken over all other axes."""
    v, g = call.tensors[:2]
    dim = int(call.arg(2, "dim", 0)) % v.dim()
    fields = call.join([(v, tuple(range(v.dim()))), (g, tuple(range(v.dim() - g.dim(), v.dim())))]).fields
    for f in fields:
        if f.axes != (dim,):
            call.inexact(f.labels, "weight norm takes its norm over the weights that read a channel")
    call.give(call.outputs[0], fields)
    call.give(call.outputs[1], tuple(f for f in fields if f.axes == (dim,)))


@rule("aten::glu", kind="layout")
def glu(call: Call) -> None:
    """x halved along `dim`: the first half times the sigmoid of the second; position j leaves in both halves."""
    x = call.tensors[0]
    axis = int(call.arg(1, "dim", -1)) % x.dim()
    out = []
    for f in call.fields(x):
        if axis not in f.axes:
            out.append(f)
            continue
        first, second = np.split(f.labels, 2, axis=f.axes.index(axis))
        call.unify(first, second)
        out.append(Field(f.axes, first))
    call.give(call.out, tuple(out))
