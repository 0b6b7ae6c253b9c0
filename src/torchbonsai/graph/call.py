"""One op of the traced pass, as the rules see it: its tensors' fields, and the few things a rule can do with them."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from torchbonsai.graph.channel_graph import Ints
from torchbonsai.graph.labels import UNKNOWN, Field, Fields, Shadow
from torchbonsai.graph.record import Consumption, Move, OpRecord

if TYPE_CHECKING:
    from torchbonsai.graph.tracer import Tracer

Letters = tuple[int, ...]
"""A letter for each axis of an operand, as in einsum: 0, 1, … are output axes, negative numbers are contracted."""

POSITION = (1 << 40) - 1
"""The low bits of a position id; the bits above number the input that the element came from."""

Rule = Callable[["Call"], None]
_PLAIN = frozenset({bool, int, float, str, type(None)})


@dataclass(eq=False, slots=True)
class Item:
    """A field of one operand, its axes renamed to letters (ascending)."""

    operand: int
    letters: Letters
    labels: Ints


@dataclass(eq=False, slots=True)
class Joined:
    """What `Call.join` found: the fields that go on to the output, and every label array that the op ran over.

    ended: those of which positions along a contracted letter may leave, so that fewer numbers are summed.
    """

    fields: Fields
    extents: tuple[tuple[Letters, Ints], ...]
    ended: tuple[Ints, ...]


@dataclass(eq=False, slots=True)
class Call:
    """func(*args, **kwargs) -> out, with `tensors` its tensor arguments in flattened order."""

    tracer: Tracer
    func: Any
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any
    tensors: list[torch.Tensor]
    record: OpRecord
    set_outputs: dict[int, Fields] = field(default_factory=dict)
    moves: dict[int, list[Move]] = field(default_factory=dict)
    places: dict[int, tuple[Ints, ...]] = field(default_factory=dict)

    # ------------------------------------------------------------------ reading
    def arg(self, position: int, name: str, default: Any = None) -> Any:
        """A positional or keyword argument of the op."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    def shadow(self, tensor: torch.Tensor) -> Shadow:
        return getattr(tensor, "_bonsai", UNKNOWN)

    def fields(self, tensor: torch.Tensor) -> Fields:
        return self.shadow(tensor).fields

    @property
    def outputs(self) -> list[torch.Tensor]:
        return flat_tensors(self.out)

    # ------------------------------------------------------------------ writing
    def give(self, out: torch.Tensor, fields: Fields) -> None:
        """`out` carries `fields`."""
        self.set_outputs[id(out)] = fields

    def place(self, out: torch.Tensor, axes: tuple[int, ...], ids: Ints, labels: Ints) -> None:
        """`out` holds, along `axes`, the elements `ids` of `labels` (flat): a field, and where it came from."""
        self.give(out, (*self.set_outputs.get(id(out), ()), Field(axes, labels[ids & POSITION])))
        self.moves.setdefault(id(out), []).append((ids, (labels,)))

    def rename(self, out: torch.Tensor, axes: tuple[int, ...], labels: Ints) -> None:
        """`out` holds all of `labels`, in their order, along `axes`."""
        self.give(out, (*self.set_outputs.get(id(out), ()), Field(axes, labels)))
        self.moves.setdefault(id(out), []).append((positions(labels.shape), (labels,)))

    def place_many(self, out: torch.Tensor, axes: tuple[int, ...], ids: Ints, parts: Sequence[Ints]) -> None:
        """Like `place`, from several sources; the high bits of an id number its source."""
        labels = np.concatenate([p.ravel() for p in parts])
        offsets = np.cumsum([0, *(p.size for p in parts)])
        self.give(out, (*self.set_outputs.get(id(out), ()), Field(axes, labels[offsets[ids >> 40] + (ids & POSITION)])))
        self.moves.setdefault(id(out), []).append((ids, tuple(parts)))

    def variant(self, name: str) -> str:
        """Which form of the op this is; another pass must take it as the same form, whatever its sizes say."""
        self.record.variant = self.tracer.expected_variant() or name
        return self.record.variant

    def freeze(self, labels: Ints | Fields | torch.Tensor, reason: str) -> None:
        """The labels (or all labels of the tensor) can never be removed."""
        if isinstance(labels, torch.Tensor):
            labels = self.fields(labels)
        arrays = [f.labels for f in labels] if isinstance(labels, tuple) else [labels]
        for array in arrays:
            self.tracer.freeze(array, reason)

    def inexact(self, labels: Ints, reason: str) -> None:
        """Removing the labels changes a number that the masked reference keeps."""
        self.tracer.mark_inexact(labels, reason)

    def unify(self, a: Ints, b: Ints) -> None:
        """Element by element, the two leave together."""
        self.tracer.unify(a, b)

    def fresh(self, n: int) -> Ints:
        """n new labels for positions that the op itself made."""
        return self.tracer.fresh(n, self.record)

    def deny(self, reason: str | None = None) -> None:
        """Freeze every label that the op sees; its outputs carry none."""
        for tensor in self.tensors:
            self.freeze(tensor, reason or f"{self.name} has no rule: nothing is assumed of unknown ops")

    # ------------------------------------------------------------------ the one way in which tensors meet
    def join(
        self, operands: Sequence[tuple[torch.Tensor, Letters]], contracted: frozenset[int] = frozenset()
    ) -> Joined:
        """Tensors meet along letters, as in einsum: equal letters are unified, contracted ones are consumed.

        Whatever varies along a labelled letter without carrying a label there freezes the labels.
        """
        items: list[Item] = []
        for i, (tensor, letters) in enumerate(operands):
            for axes, labels in self.fields(tensor):
                if len(axes) == 1 and labels.size > 1:
                    items.append(Item(i, (letters[axes[0]],), labels))
                elif (item := self._item(i, axes, labels, letters, operands)) is not None:
                    items.append(item)
        fields: list[Field] = []
        extents: list[tuple[Letters, Ints]] = []
        ended: list[Ints] = []
        for letters, members in _clusters(items):
            merged = self._merge(letters, members, operands)
            if merged is None:
                continue
            letters, base = merged
            extents.append((letters, base))
            eaten = tuple(x for x in letters if x in contracted)
            if not eaten:
                fields.append(Field(letters, base))
                continue
            self._note_consumption(members, operands)
            blocks = self._whole_blocks(letters, eaten, base, members)
            if blocks is None:
                ended.append(base)
            else:
                fields.append(blocks)
        return Joined(tuple(fields), tuple(extents), tuple(ended))

    def _item(
        self, i: int, axes: Letters, labels: Ints, letters: Letters, operands: Sequence[tuple[torch.Tensor, Letters]]
    ) -> Item | None:
        named = tuple(letters[a] for a in axes)
        wide = tuple(k for k, x in enumerate(named) if labels.shape[k] == 1 and self._size(x, operands) > 1)
        if wide:
            if labels.size == 1 or len(wide) == len(named):
                self.freeze(labels, f"{self.name} broadcasts a single channel")
                return None
            labels = labels.squeeze(wide)
            named = tuple(x for k, x in enumerate(named) if k not in wide)
        if any(a > b for a, b in itertools.pairwise(named)):
            order = tuple(int(k) for k in np.argsort(named))
            named, labels = tuple(named[k] for k in order), labels.transpose(order)
        return Item(i, named, labels)

    @staticmethod
    def _size(letter: int, operands: Sequence[tuple[torch.Tensor, Letters]]) -> int:
        return max((t.shape[ls.index(letter)] for t, ls in operands if letter in ls), default=1)

    def _merge(
        self, letters: Letters, members: list[Item], operands: Sequence[tuple[torch.Tensor, Letters]]
    ) -> tuple[Letters, Ints] | None:
        """One label array for all members, unified, and its letters; None where the cluster had to be frozen.

        Along a letter where some tensor varies without labels nothing may leave: position j of the other letters
        leaves at all of its places together.
        """
        covered: dict[int, Letters] = {}
        for item in members:
            if item.operand in covered:
                self._freeze_all(members, f"{self.name} meets one tensor along two labelled axes at once")
                return None
            covered[item.operand] = item.letters
        fixed: dict[int, str] = {}
        for i, (tensor, names) in enumerate(operands):
            mine = covered.get(i, ())
            for letter in letters:
                if letter in mine or letter not in names:
                    continue
                axis = names.index(letter)
                if tensor.shape[axis] > 1 and tensor.stride(axis) != 0:
                    what = "the model input" if self.shadow(tensor).dynamic else "a tensor without channel labels"
                    fixed[letter] = f"{self.name} meets {what} that varies along the axis"
        if len(fixed) == len(letters):
            self._freeze_all(members, next(iter(fixed.values())))
            return None
        base = next((m.labels for m in members if m.letters == letters), None)
        if base is None:
            shape = tuple(self._size(x, operands) for x in letters)
            base = np.ascontiguousarray(np.broadcast_to(_spread(members[0], letters), shape))
        for item in members:
            if item.labels is not base:
                same = item.letters == letters
                self.unify(base, item.labels if same else np.broadcast_to(_spread(item, letters), base.shape))
        return self._fix(letters, base, fixed) if fixed else (letters, base)

    def _fix(self, letters: Letters, base: Ints, fixed: Mapping[int, str]) -> tuple[Letters, Ints]:
        """Nothing leaves along the `fixed` letters."""
        first = base[tuple(slice(0, 1) if x in fixed else slice(None) for x in letters)]
        self.unify(base, np.broadcast_to(first, base.shape))
        rest = tuple(x for x in letters if x not in fixed)
        return rest, first.reshape([n for n, x in zip(base.shape, letters, strict=True) if x not in fixed])

    def _freeze_all(self, members: list[Item], reason: str) -> None:
        for item in members:
            self.freeze(item.labels, reason)

    def pin(self, tensor: torch.Tensor, axes: Collection[int], reason: str) -> None:
        """Nothing leaves along `axes` of the tensor; a channel that lies along others too leaves at all its places."""
        fields = self.fields(tensor)
        if not any(a in axes for f in fields for a in f.axes):
            return
        kept = []
        for f in fields:
            inside = {a: reason for a in f.axes if a in axes}
            if len(inside) == len(f.axes):
                self.freeze(f.labels, reason)
            else:
                kept.append(Field(*self._fix(f.axes, f.labels, inside)) if inside else f)
        self.record.pins = True
        tensor._bonsai = replace(self.shadow(tensor), fields=tuple(kept))  # type: ignore[attr-defined]

    def _whole_blocks(self, letters: Letters, eaten: Letters, base: Ints, members: list[Item]) -> Field | None:
        """The labels along `eaten` end here. Where other letters remain, they are blocks: of attention heads, say.

        Position j leaves inside every block (None), as where one weight reads them all; or whole blocks leave, and
        their labels go on to the output.
        """
        rest = tuple(x for k, x in enumerate(letters) if x not in eaten and _varies(base, k))
        if not rest:
            return None
        inside = base[tuple(slice(None) if x in eaten else slice(0, 1) for x in letters)]
        whole = base[tuple(slice(None) if x in rest else slice(0, 1) for x in letters)]
        shared = any(set(m.letters) <= set(eaten) for m in members)
        choice = "inside" if shared else self.blocks(np.unique(inside).size, np.unique(whole).size)
        self.unify(base, np.broadcast_to(whole if choice == "whole" else inside, base.shape))
        if choice == "inside":
            return None
        return Field(rest, whole.reshape([n for n, x in zip(base.shape, letters, strict=True) if x in rest]))

    def blocks(self, inside: int, whole: int) -> str:
        """Which leaves at this op, "whole" blocks or the same positions "inside" each, that many in number?"""
        self.record.blocks = self.tracer.choose_blocks(self.record, inside, whole)
        return self.record.blocks

    def _note_consumption(self, members: list[Item], operands: Sequence[tuple[torch.Tensor, Letters]]) -> None:
        gate = next((m for m in members if self.shadow(operands[m.operand][0]).dynamic), members[0])
        weight = next((m for m in members if not self.shadow(operands[m.operand][0]).dynamic and m is not gate), None)
        name, axis = None, -1
        if weight is not None:
            leaf = self.shadow(operands[weight.operand][0]).leaf
            owners = self.tracer.space.owners_of(weight.labels)
            for owner in owners:
                self.tracer.role(owner, "consumes")
            if leaf is not None and len(owners) == 1 and owners[0][0] == leaf and len(weight.letters) == 1:
                name, axis = owners[0]
        tensor, named = operands[gate.operand]
        self.gate(tensor, tuple(named.index(x) for x in gate.letters), gate.labels, name, axis)

    def gate(
        self, tensor: torch.Tensor, axes: tuple[int, ...], labels: Ints, weight: str | None = None, axis: int = -1
    ) -> None:
        """The contraction reads `labels` along `axes` of `tensor`: removed ones are multiplied by zero there."""
        operand = next(k for k, t in enumerate(self.tensors) if t is tensor)
        self.record.consumed += (Consumption(operand, axes, labels, weight, axis),)

    def produce(self, weight: torch.Tensor, labels: Ints) -> None:
        """The labels number outputs that a weight (not an activation) makes."""
        if not self.shadow(weight).dynamic:
            for owner in self.tracer.space.owners_of(labels):
                self.tracer.role(owner, "produces")

    def count(self, joined: Joined, sizes: dict[int, int], weight: torch.Tensor | None = None) -> None:
        """Note the contraction's MACs: all letters multiplied, labelled ones as functions of what stays."""
        labelled = {x for letters, _ in joined.extents for x in letters}
        constant = math.prod(n for x, n in sizes.items() if x not in labelled)
        self.add_product(constant, tuple(a for _, a in joined.extents), weight)

    def add_product(self, constant: int, extents: tuple[Ints, ...], weight: torch.Tensor | None) -> None:
        """`constant` MACs for each combination of kept entries of `extents`."""
        leaf = self.shadow(weight).leaf if weight is not None else None
        self.record.products += ((constant, extents, self.tracer.module_of(leaf)),)


@lru_cache(maxsize=4096)
def positions(shape: tuple[int, ...]) -> Ints:
    """Position ids of an array of labels: 0, 1, …; read-only, and the same object for the same shape."""
    ids = np.arange(math.prod(shape)).reshape(shape)
    ids.flags.writeable = False
    return ids


def _varies(labels: Ints, axis: int) -> bool:
    return bool((labels != labels.take([0], axis=axis)).any())


def _spread(item: Item, letters: Letters) -> Ints:
    """item.labels with an axis of size 1 for every letter it lacks."""
    return item.labels.reshape([item.labels.shape[item.letters.index(x)] if x in item.letters else 1 for x in letters])


def _clusters(items: list[Item]) -> list[tuple[Letters, list[Item]]]:
    """Items that share letters, directly or through others."""
    if items and all(item.letters == items[0].letters for item in items):
        return [(items[0].letters, items)]
    clusters: list[tuple[set[int], list[Item]]] = []
    for item in items:
        mine: tuple[set[int], list[Item]] = (set(item.letters), [item])
        apart = []
        for other in clusters:
            if other[0] & mine[0]:
                mine = (mine[0] | other[0], other[1] + mine[1])
            else:
                apart.append(other)
        clusters = [*apart, mine]
    return [(tuple(sorted(letters)), members) for letters, members in clusters]


def read(args: Any, kwargs: Any) -> tuple[list[torch.Tensor], tuple[Shadow, ...], tuple[Any, ...]]:
    """An op's tensors in flattened order, their shadows, and its arguments with these in the tensors' places."""
    tensors: list[torch.Tensor] = []
    shadows: list[Shadow] = []
    form = _read(args, tensors, shadows)
    if kwargs:
        form += [*kwargs, *_read(kwargs.values(), tensors, shadows)]
    return tensors, tuple(shadows), tuple(form)


def _read(values: Iterable[Any], tensors: list[torch.Tensor], shadows: list[Shadow]) -> list[Any]:
    form: list[Any] = []
    for value in values:
        kind = type(value)
        if kind in _PLAIN:
            form.append(value)
        elif isinstance(value, torch.Tensor):
            shadow = getattr(value, "_bonsai", UNKNOWN)
            tensors.append(value)
            shadows.append(shadow)
            form.append(shadow)
        elif kind is list or kind is tuple:
            sizes = not value or type(value[0]) is int
            form.append(tuple(value) if sizes else tuple(_read(value, tensors, shadows)))
        else:
            form.append(value)
    return form


def flat_tensors(value: Any) -> list[torch.Tensor]:
    """The tensors in nested tuples, lists and dicts, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    found: list[torch.Tensor] = []
    _collect(value, found)
    return found


def _collect(value: Any, into: list[torch.Tensor]) -> None:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return
    for v in value:
        if isinstance(v, torch.Tensor):
            into.append(v)
        elif isinstance(v, list | tuple | dict):
            _collect(v, into)


def map_tensors(change: Callable[[torch.Tensor], Any], value: Any) -> Any:
    """`value` with every tensor in its tuples (named ones too), lists and dicts changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, list | tuple):
        members = [map_tensors(change, v) for v in value]
        return type(value)(*members) if hasattr(value, "_fields") else type(value)(members)
    return {k: map_tensors(change, v) for k, v in value.items()} if isinstance(value, dict) else value


def tensors_within(value: Any, seen: set[int] | None = None) -> list[torch.Tensor]:
    """The tensors in whatever a forward returns: containers of any kind, and objects that hold some."""
    seen = set() if seen is None else seen
    if isinstance(value, torch.Tensor):
        return [value]
    if id(value) in seen or isinstance(value, str | bytes | type | torch.nn.Module) or callable(value):
        return []
    seen.add(id(value))
    if isinstance(value, Mapping):
        members = list(value.values())
    elif isinstance(value, list | tuple | set | frozenset | deque):
        members = list(value)
    else:
        slots = [k for kind in type(value).__mro__ for k in getattr(kind, "__slots__", ())]
        members = [*getattr(value, "__dict__", {}).values(), *(getattr(value, k, None) for k in slots)]
    return [t for member in members for t in tensors_within(member, seen)]
