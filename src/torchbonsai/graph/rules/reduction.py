"""Reductions over axes, running ones too. A sum over channels is a contraction; a mean or a norm is a statistic."""

from __future__ import annotations

import numpy as np
import torch

from torchbonsai.graph.call import Call
from torchbonsai.graph.labels import Field, Fields
from torchbonsai.graph.rules.registry import rule


def reduced_axes(call: Call, x: torch.Tensor, position: int = 1) -> tuple[int, ...]:
    """The axes that a reduction with argument `dim` runs over; all of them where it names none."""
    value = call.arg(position, "dim")
    if value is None or (isinstance(value, list | tuple) and not value):
        return tuple(range(x.dim()))
    listed = value if isinstance(value, list | tuple) else [value]
    return tuple(sorted(int(d) % x.dim() for d in listed))


def rename(axes: tuple[int, ...], gone: tuple[int, ...], keepdim: bool) -> tuple[int, ...]:
    """Where axes end up when `gone` are reduced."""
    return axes if keepdim else tuple(a - sum(g < a for g in gone) for a in axes)


def reduce(call: Call, x: torch.Tensor, gone: tuple[int, ...], statistic: str | None) -> Fields:
    """Fields of x after reducing `gone`, with dims kept; `statistic`: why it is not a plain sum.

    A statistic of a whole block of channels (the largest of two, in maxout) does not change when other blocks leave.
    """
    letters = tuple(-1 - a if a in gone else a for a in range(x.dim()))
    eaten = frozenset(x for x in letters if x < 0)
    joined = call.join([(x, letters)], eaten)
    for labels in joined.ended if statistic is not None else ():
        call.inexact(labels, str(statistic))
    return joined.fields


def _finish(call: Call, x: torch.Tensor, position: int, statistic: str | None) -> None:
    gone = reduced_axes(call, x, position)
    fields = reduce(call, x, gone, statistic)
    for out in call.outputs:
        keepdim = out.dim() == x.dim() and x.dim() > 0
        call.give(out, tuple(Field(rename(f.axes, gone, keepdim), f.labels) for f in fields))


@rule("aten::sum", "aten::nansum", kind="reduction")
def sum_(call: Call) -> None:
    """A sum over channels is a contraction with ones."""
    named = "dim" in call.name or "nansum" in call.name
    _finish(call, call.tensors[0], 1 if named else 99, None)


def _running_axis(call: Call) -> int:
    """The axis that a running reduction goes along; what is written into another tensor is not followed."""
    return int(call.arg(1, "dim")) % max(call.tensors[0].dim(), 1)


def _running(call: Call, x: torch.Tensor, axis: int) -> Fields:
    """The fields along which the op runs through different channels.

    Where channels lie along other axes too, in blocks, position j leaves in all of them, or rows of other channels
    would be run through: nothing is lost on the way then.
    """
    found = [f for f in call.fields(x) if axis in f.axes]
    for f in (f for f in found if len(f.axes) > 1):
        call.unify(f.labels, np.broadcast_to(f.labels.take([0], axis=f.axes.index(axis)), f.labels.shape))
    return tuple(f for f in found if len(f.axes) == 1)


@rule("aten::cumsum", kind="reduction")
def cumsum(call: Call) -> None:
    """out[i] = x[0] + … + x[i]: along channels a contraction with a triangle of ones, position i by position i.

    What is left of a removed channel in later ones has to go, so it is gated where it enters; labels pass.
    """
    x, axis = call.tensors[0], _running_axis(call)
    if call.func._schema.is_mutable:
        call.deny(f"{call.name} writes sums over the axis into a tensor")
        return
    for axes, labels in _running(call, x, axis):
        call.gate(x, axes, labels)
    call.give(call.out, call.fields(x))


@rule("aten::cumprod", "aten::cummax", "aten::cummin", "aten::logcumsumexp", kind="reduction")
def running_statistic(call: Call) -> None:
    """Along channels it changes when channels go; along other axes, channels pass."""
    x, axis = call.tensors[0], _running_axis(call)
    if call.func._schema.is_mutable:
        call.deny(f"{call.name} writes into a tensor")
        return
    for _, labels in _running(call, x, axis):
        call.inexact(labels, f"a running {call.name.split('.')[1]} over channels")
    if "cumm" in call.name:
        _locate(call, x, (axis,))
    for out in call.outputs:
        call.give(out, call.fields(x))


_STATISTICS = "mean var std var_mean std_mean amax amin aminmax logsumexp norm linalg_vector_norm prod max min argmax \
argmin all any count_nonzero median nanmedian"
_LOCATING = frozenset(("argmax", "argmin", "max", "min", "median", "nanmedian"))
_POSITION = {"norm": 2, "linalg_vector_norm": 2}


@rule(*(f"aten::{n}" for n in _STATISTICS.split()), kind="reduction")
def statistic(call: Call) -> None:
    """Over channels, it changes when channels go; over other axes, channels pass."""
    name = call.name.split(".")[1]
    if name in ("max", "min") and len(call.tensors) > 1:
        from torchbonsai.graph.rules.pointwise import pointwise

        pointwise(call)
        return
    position = _POSITION.get(name, 1)
    if name in ("std", "var", "std_mean", "var_mean", "prod", "all", "any") and not isinstance(
        call.arg(position, "dim"), list | tuple | int
    ):
        position = 99
    if isinstance(call.arg(position, "dim"), bool):
        position = 99
    if name in _LOCATING:
        _locate(call, call.tensors[0], reduced_axes(call, call.tensors[0], position))
    _finish(call, call.tensors[0], position, f"a {name} over channels")


def _locate(call: Call, x: torch.Tensor, gone: tuple[int, ...]) -> None:
    """The positions that come out (beside the values, or alone) number the channels that are reduced."""
    numbered = tuple(labels for axes, labels in call.fields(x) if set(axes) & set(gone))
    for out in call.outputs if numbered else ():
        if out.dtype == torch.int64 and (len(call.outputs) > 1 or "arg" in call.name):
            call.places[id(out)] = numbered
