"""Ops that only move elements. Each runs on position ids, and labels follow the ids; the ids are kept for the proof."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch

from torchbonsai.graph.call import Call, positions
from torchbonsai.graph.channel_graph import Ints
from torchbonsai.graph.labels import Field
from torchbonsai.graph.rules.registry import rule

Axes = tuple[int, ...]
Move = Callable[[Axes, Ints], tuple[Axes, Ints] | None]
"""(axes of a field, its position ids along them) -> the same of the output; None: the labels cannot be followed."""


def follow(call: Call, out: torch.Tensor, x: torch.Tensor, move: Move) -> None:
    """Move every field of x into `out`; a field that leaves its axis is frozen."""
    for axes, labels in call.fields(x):
        all_of_them = positions(labels.shape)
        moved = move(axes, all_of_them)
        if moved is None:
            call.freeze(labels, f"{call.name} reads channels at fixed places")
            continue
        to, ids = moved
        if not to:
            call.freeze(labels.ravel()[ids.ravel()], f"{call.name} reads single channels at fixed places")
            continue
        if ids is all_of_them and (len(to) == 1 or all(a < b for a, b in pairwise(to))):
            call.rename(out, to, labels)
            continue
        order = tuple(int(k) for k in np.argsort(to))
        call.place(out, tuple(to[k] for k in order), np.ascontiguousarray(ids.transpose(order)), labels.ravel())


def axis_of(call: Call, x: torch.Tensor, position: int = 1, name: str = "dim", default: int = 0) -> int:
    """A dim argument, counted from the front."""
    return int(call.arg(position, name, default)) % max(x.dim(), 1)


# ---------------------------------------------------------------- axes are renamed
@rule("aten::permute", "aten::transpose", "aten::t", "aten::numpy_T", "aten::adjoint", kind="layout")
def permute(call: Call) -> None:
    x = call.tensors[0]
    if "permute" in call.name:
        order = [int(d) % x.dim() for d in call.args[1]]
    else:
        a, b = (0, 1) if len(call.args) < 3 else (int(call.args[1]) % x.dim(), int(call.args[2]) % x.dim())
        order = list(range(x.dim()))
        if x.dim() > 1:
            order[a], order[b] = order[b], order[a]
    follow(call, call.out, x, lambda axes, ids: (tuple(order.index(a) for a in axes), ids))


@rule("aten::unsqueeze", kind="layout")
def unsqueeze(call: Call) -> None:
    x = call.tensors[0]
    at = int(call.args[1]) % call.out.dim()
    follow(call, call.out, x, lambda axes, ids: (tuple(a + (a >= at) for a in axes), ids))


@rule("aten::squeeze", kind="layout")
def squeeze(call: Call) -> None:
    x = call.tensors[0]
    before = call.tracer.before if call.func._schema.is_mutable else None
    shape = before[0] if before is not None else x.shape  # squeeze_ has changed x already
    value = call.arg(1, "dim")
    asked = range(len(shape)) if value is None else value if isinstance(value, list | tuple) else [value]
    gone = {int(d) % max(len(shape), 1) for d in asked} & {a for a, n in enumerate(shape) if n == 1}

    def move(axes: Axes, ids: Ints) -> tuple[Axes, Ints]:
        stay = [k for k, a in enumerate(axes) if a not in gone]
        to = tuple(axes[k] - sum(g < axes[k] for g in gone) for k in stay)
        return to, ids if len(stay) == len(axes) else ids.reshape([ids.shape[k] for k in stay])

    follow(call, call.out, x, move)


@rule("aten::expand", kind="layout")
def expand(call: Call) -> None:
    x, out = call.tensors[0], call.out
    shift = out.dim() - x.dim()

    def move(axes: Axes, ids: Ints) -> tuple[Axes, Ints] | None:
        widened = any(x.shape[a] == 1 and out.shape[a + shift] > 1 for a in axes)
        if not widened:
            return tuple(a + shift for a in axes), ids
        stay = [k for k, a in enumerate(axes) if x.shape[a] == out.shape[a + shift]]
        return tuple(axes[k] + shift for k in stay), ids.reshape([ids.shape[k] for k in stay])

    follow(call, out, x, move)
    if not call.fields(x):
        _spread_alone(call, x, out)


def _spread_alone(call: Call, x: torch.Tensor, out: torch.Tensor) -> None:
    """A map without channels spread over them (attention over space): the copies may shrink with their user."""
    shift = out.dim() - x.dim()
    known = call.tracer.expected_axes(0)
    wide = [a for a, n in enumerate(out.shape) if n > 1 and (a < shift or x.shape[a - shift] == 1)]
    for axis in wide if known is None else [a for (a,) in known]:
        labels = call.fresh(out.shape[axis])
        call.place(out, (axis,), np.arange(labels.size), labels)


# ---------------------------------------------------------------- axes are cut
@rule("aten::select", "aten::select_copy", kind="layout")
def select(call: Call) -> None:
    x = call.tensors[0]
    follow(call, call.out, x, _select(axis_of(call, x), int(call.args[2])))


def _select(dim: int, index: int) -> Move:
    def move(axes: Axes, ids: Ints) -> tuple[Axes, Ints]:
        if dim in axes:
            ids = np.take(ids, index, axis=axes.index(dim))
        return tuple(a - (a > dim) for a in axes if a != dim), ids

    return move


def _cut(dim: int, where: slice) -> Move:
    def move(axes: Axes, ids: Ints) -> tuple[Axes, Ints]:
        if dim in axes:
            ids = ids[tuple(where if a == dim else slice(None) for a in axes)]
        return axes, ids

    return move


@rule("aten::slice", "aten::narrow", "aten::slice_copy", kind="layout")
def slice_(call: Call) -> None:
    x = call.tensors[0]
    dim = axis_of(call, x)
    if "narrow" in call.name:
        start, stop, step = int(call.args[2]), int(call.args[2]) + int(call.args[3]), 1
    else:
        start, stop, step = call.arg(2, "start"), call.arg(3, "end"), call.arg(4, "step", 1)
    follow(call, call.out, x, _cut(dim, slice(start, stop, step)))


@rule("aten::split", "aten::unsafe_split", "aten::split_with_sizes", "aten::unsafe_split_with_sizes",
      "aten::chunk", "aten::unsafe_chunk", "aten::tensor_split", kind="layout")  # fmt: skip
def split(call: Call) -> None:
    x = call.tensors[0]
    dim = axis_of(call, x, 2)
    start = 0
    for out in call.outputs:
        stop = start + out.shape[dim]
        follow(call, out, x, _cut(dim, slice(start, stop)))
        start = stop


@rule("aten::unbind", "aten::unbind_copy", kind="layout")
def unbind(call: Call) -> None:
    x = call.tensors[0]
    dim = axis_of(call, x)
    for k, out in enumerate(call.outputs):
        follow(call, out, x, _select(dim, k))


# ---------------------------------------------------------------- tensors are joined
@rule("aten::cat", "aten::concat", kind="layout")
def cat(call: Call) -> None:
    dim = axis_of(call, call.out, 1)
    _join(call, [t for t in call.tensors if not (t.dim() == 1 and t.numel() == 0)], dim, shift=False)


@rule("aten::stack", kind="layout")
def stack(call: Call) -> None:
    _join(call, call.tensors, axis_of(call, call.out, 1), shift=True)


def _join(call: Call, parts: Sequence[torch.Tensor], dim: int, shift: bool) -> None:
    """Labels along `dim` stand side by side; labels along other axes must agree."""
    named = [
        [(tuple(a + (shift and a >= dim) for a in axes), labels) for axes, labels in call.fields(t)] for t in parts
    ]
    for k, fields in enumerate(named):
        for axes, labels in fields:
            if dim in axes and len(axes) > 1:
                call.freeze(labels, f"{call.name} joins tensors along one of two axes that share labels")
                named[k] = [f for f in named[k] if f[1] is not labels]
    if not shift and any(axes == (dim,) for fields in named for axes, _ in fields):
        rows = [next((ls for axes, ls in fields if axes == (dim,)), None) for fields in named]
        held = [np.zeros(t.shape[dim], np.int64) if r is None else r for r, t in zip(rows, parts, strict=True)]
        ids = np.concatenate([np.arange(r.size) + (k << 40) for k, r in enumerate(held)])
        call.place_many(call.out, (dim,), ids, held)
    letters = [tuple(-1 - k if a == dim else a for a in range(call.out.dim())) for k in range(len(parts))]
    if shift:
        letters = [tuple(a for a in row if a >= 0) for row in letters]
    for f in call.join(list(zip(parts, letters, strict=True))).fields:
        if min(f.axes) >= 0:
            call.place(call.out, f.axes, np.arange(f.labels.size).reshape(f.labels.shape), f.labels.ravel())


# ---------------------------------------------------------------- axes are regrouped
@rule("aten::view", "aten::_unsafe_view", "aten::reshape", "aten::_reshape_alias", "aten::flatten", kind="layout")
def view(call: Call) -> None:
    x, out = call.tensors[0], call.out
    if not isinstance(call.args[1] if len(call.args) > 1 else None, list | tuple):
        for f in call.fields(x):
            call.freeze(f.labels, f"{call.name} reads the bytes as another type")
        return
    source, target = tuple(x.shape), tuple(out.shape)
    known = call.tracer.expected_axes(0)
    fields = sorted(call.fields(x), key=lambda f: f.axes)
    apart = known is None or len(known) < len(fields)  # some may meet, or did in the large network
    taken: set[int] = set()
    for axes, labels in fields:
        k = len(call.set_outputs.get(id(out), ()))
        if apart and not taken.isdisjoint(regroup(source, target, axes, None, labels.ravel())[0]):
            call.freeze(labels, f"{call.name} makes one axis of it and of another labelled one")  # a flattened kernel
            continue
        want = known[k] if known is not None and k < len(known) else None
        to, ids = regroup(source, target, axes, want, labels.ravel())
        if ids.shape == labels.shape and len(to) == 1:
            call.rename(out, to, labels)
        else:
            call.place(out, to, ids, labels.ravel())
        taken.update(to)


def regroup(
    source: Axes, target: Axes, axes: Axes, want: Axes | None = None, labels: Ints | None = None
) -> tuple[Axes, Ints]:
    """Where the elements along `axes` of a tensor of shape `source` lie after a view as `target`.

    Returns the axes of the view along which they vary (or `want`) and, along those, their position ids. Elements with
    the same one of `labels` (of all elements, flat) count as the same.
    """
    blocks = _blocks(source, target, axes)
    before = [a for i0, i1, _, _ in blocks for a in range(i0, i1)]
    after = [a for _, _, o0, o1 in blocks for a in range(o0, o1)]
    shape = [source[a] if a in axes else 1 for a in before]
    ids = positions(tuple(shape))
    full = np.broadcast_to(ids, [source[a] for a in before]).reshape([target[a] for a in after])
    return _reduce(full, after, want, labels)


def _reduce(full: Ints, names: Sequence[int], want: Axes | None, labels: Ints | None = None) -> tuple[Axes, Ints]:
    """Drop the axes (named `names`) along which the ids do not vary."""
    keep: list[int] = []
    for name in names:
        axis = len(keep)
        first = full.take([0], axis=axis) if full.shape[axis] > 1 else full
        varies = first is not full and bool((full != first).any())
        if varies and labels is not None:
            varies = bool((labels[full] != labels[first]).any())
        if (varies and want is None) or (want is not None and name in want):
            keep.append(name)
        elif varies:
            raise LookupError(f"labels now vary along axis {name}")
        else:
            full = first.squeeze(axis)
    if not keep:  # one label, repeated: it lies along every axis of the block
        return (names[0],), full.reshape(1)
    return tuple(keep), np.ascontiguousarray(full)


def _blocks(source: Axes, target: Axes, axes: Axes) -> list[tuple[int, int, int, int]]:
    """The smallest runs of axes of both shapes that hold the same elements, those that hold any of `axes`."""
    i = o = 0
    blocks: list[tuple[int, int, int, int]] = []
    while i < len(source) or o < len(target):
        i0, o0 = i, o
        a = b = 1
        while True:
            if a == b and i > i0 and o > o0:
                break
            if (a <= b and i < len(source)) or o >= len(target):
                if i >= len(source):
                    break
                a, i = a * source[i], i + 1
            else:
                b, o = b * target[o], o + 1
        blocks.append((i0, i, o0, o))
    return [b for b in blocks if any(b[0] <= x < b[1] for x in axes)]


# ---------------------------------------------------------------- anything else that moves
_MOVERS = """flip roll repeat pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle index_select unfold
diagonal rot90 repeat_interleave tile"""


@rule(*(f"aten::{n}" for n in _MOVERS.split()), kind="layout")
def mover(call: Call) -> None:
    """The op itself, run on the ids."""
    x, out = call.tensors[0], call.out
    if any(call.shadow(t).dynamic for t in call.tensors[1:]):
        call.deny(f"{call.name} reads places that depend on the input")
        return
    if "channel_shuffle" in call.name:
        _tie_shuffled(call, x, int(call.args[1]))
    known = call.tracer.expected_axes(0)
    for k, (axes, labels) in enumerate(call.fields(x)):
        ids = run_on_ids(call, x, axes, labels)
        want = known[k] if known is not None and k < len(known) else None
        to, ids = _reduce(ids, range(ids.ndim), want)
        if ids.size == 1 and out.shape[to[0]] != 1:
            call.freeze(labels, f"{call.name} reads channels at fixed places")
        else:
            call.place(out, to, ids, labels.ravel())
    for tensor in call.tensors[1:]:
        if not _points(call, x, tensor):
            call.freeze(tensor, f"{call.name} takes places from it")


def _points(call: Call, x: torch.Tensor, places: torch.Tensor) -> bool:
    """A buffer (n,) of positions along one labelled axis: an entry leaves with the channel that it points to."""
    name = call.shadow(places).leaf
    where = call.args[1]
    if isinstance(where, list | tuple):
        where = next((a for a, t in enumerate(where) if t is places), None)
    if not isinstance(where, int):
        return False
    axis = where
    pointed = next((f.labels for f in call.fields(x) if f.axes == (axis % x.dim(),)), None)
    read = next((f.labels for f in call.set_outputs.get(id(call.out), ()) if f.axes == (axis % x.dim(),)), None)
    mine = call.fields(places)
    usable = name is not None and places.dim() == 1 and places.dtype == torch.int64 and len(call.tensors) == 2
    if not usable or pointed is None or read is None or not mine or mine[0].labels.shape != read.shape:
        return False
    call.unify(read, mine[0].labels)
    call.record.pointers += ((str(name), pointed),)
    return True


def _tie_shuffled(call: Call, x: torch.Tensor, groups: int) -> None:
    """The number of groups is the op's argument: position j leaves in every group, so that they stay equal."""
    for axes, labels in call.fields(x):
        if axes == (1,):
            rows = labels.reshape(groups, -1)
            call.unify(rows, np.broadcast_to(rows[:1], rows.shape))


def run_on_ids(call: Call, x: torch.Tensor, axes: Axes, labels: Ints) -> Ints:
    """func(ids, …): where every element along `axes` lands."""
    shape = [n if a in axes else 1 for a, n in enumerate(x.shape)]
    ids = torch.arange(labels.size, device=x.device).reshape(shape).expand(x.shape)
    return call.func(ids, *call.args[1:], **call.kwargs).cpu().numpy()


@rule("aten::index", kind="layout")
def index(call: Call) -> None:
    """x[indices] with constant indices: positions are read off; an index that depends on the input freezes."""
    places = call.args[1]
    if any(call.shadow(t).dynamic for t in places if t is not None):
        touched = [a for a, t in enumerate(places) if t is not None]
        for axes, labels in call.fields(call.tensors[0]):
            if set(axes) & set(touched) or touched != list(range(touched[0], touched[-1] + 1)):
                call.freeze(labels, f"{call.name} reads places that depend on the input")
        if any(set(f.axes).isdisjoint(touched) for f in call.fields(call.tensors[0])):
            call.deny(f"{call.name} with places that depend on the input")
        return
    mover(call)


@rule("aten::embedding", kind="lookup")
def embedding(call: Call) -> None:
    """weight (n, c), indices (*) -> (*, c): rows are looked up whole."""
    weight, places = call.tensors[:2]
    call.pin(weight, [0], f"{call.name} looks rows up")
    call.freeze(places, f"{call.name} takes places from it")
    for f in call.fields(weight):
        call.produce(weight, f.labels)
        call.give(call.out, (Field((call.out.dim() - 1,), f.labels),))


@rule("aten::constant_pad_nd", kind="layout")
def pad(call: Call) -> None:
    """Padding along a labelled axis makes positions of its own; they may shrink if the code pads by less."""
    x, out = call.tensors[0], call.out
    amounts = [int(p) for p in call.args[1]]
    pads = {x.dim() - 1 - k: (amounts[2 * k], amounts[2 * k + 1]) for k in range(len(amounts) // 2)}
    for axes, labels in call.fields(x):
        padded = [a for a in axes if pads.get(a, (0, 0)) != (0, 0)]
        ids = np.arange(labels.size).reshape(labels.shape)
        if not padded:
            call.place(out, axes, ids, labels.ravel())
        elif len(padded) > 1 or min(pads[padded[0]]) < 0:
            call.freeze(labels, f"{call.name} pads two axes that share labels, or cuts")
        else:
            at = axes.index(padded[0])
            before, after = (_made_beside(call, labels, n, at) for n in pads[padded[0]])
            made = [before, labels, after]
            where = np.concatenate([np.arange(r.size).reshape(r.shape) + (k << 40) for k, r in enumerate(made)], at)
            call.place_many(out, axes, where, made)


def _made_beside(call: Call, labels: Ints, n: int, at: int) -> Ints:
    """New labels for n more positions along axis `at` of a field."""
    shape = [n if k == at else size for k, size in enumerate(labels.shape)]
    return call.fresh(int(np.prod(shape))).reshape(shape)


@rule("aten::as_strided", "aten::view_as_real", "aten::view_as_complex", kind="layout")
def strided(call: Call) -> None:
    """Freezes, unless only the strides of axes of size one change (as pooling to 1x1 does, for channels_last)."""
    out = call.out
    if "as_strided_" in call.name and call.tracer.before is not None:
        shape, strides = call.tracer.before
        same = [(n, s) for n, s in zip(shape, strides, strict=True) if n > 1]
        if tuple(out.shape) == tuple(shape) and same == [
            (n, s) for n, s in zip(out.shape, out.stride(), strict=True) if n > 1
        ]:
            call.give(out, call.fields(call.tensors[0]))
            return
    call.deny(f"{call.name} reads memory by strides")
