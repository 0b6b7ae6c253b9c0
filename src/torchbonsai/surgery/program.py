"""A recorded forward as data: ATen ops over numbered slots, each written once, and the slots that gates decide.

`recorder.record` writes a program, `rewrite` makes an equal but faster one, `replay` runs the part behind a gate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from torchbonsai.graph.channel_graph import Ints

Values = dict[int, Tensor]
"""Slot -> its value."""
Like = tuple[torch.dtype, tuple[int, ...]]
"""Dtype and shape, as recorded."""


class UnreplayableError(Exception):
    """A forward that cannot be replayed faithfully, and why; it has to be run whole."""


@dataclass(frozen=True, slots=True)
class Ref:
    """The place of a slot's tensor among an op's arguments."""

    slot: int


@dataclass(frozen=True, eq=False, slots=True)
class Op:
    """`func(*args, **kwargs)`, with a `Ref` wherever a tensor goes. writes: slots of its tensor outputs, in order.

    aliases: what it returns shares memory with what it reads.
    """

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    writes: tuple[int, ...]
    reads: tuple[int, ...] = field(init=False)
    aliases: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "reads", tuple(dict.fromkeys(slots_in([self.args, self.kwargs]))))

    def run(self, values: Values) -> None:
        """Read from `values`, write into them."""
        out = self.func(*_filled(self.args, values), **_filled(self.kwargs, values))
        if type(out) is Tensor:
            values[self.writes[0]] = out
        else:
            values.update(zip(self.writes, tensors_of(out), strict=True))


@dataclass(frozen=True, eq=False)
class Source:
    """A slot that gates decide: `make(g)` is its value; atoms: those that it depends on."""

    slot: int
    atoms: Ints
    make: Callable[[Tensor], Tensor]


@dataclass(eq=False)
class Program:
    """ops in forward order; constants: slots that no op writes; output: the loss. like: slot -> dtype and shape."""

    ops: list[Op]
    constants: Values
    sources: list[Source]
    output: int
    like: dict[int, Like]

    def fresh(self, like: Like) -> int:
        """A new slot."""
        self.like[len(self.like)] = like
        return len(self.like) - 1

    def readers(self) -> dict[int, list[Op]]:
        """Slot -> the ops that read it."""
        found: dict[int, list[Op]] = {}
        for op in self.ops:
            for slot in op.reads:
                found.setdefault(slot, []).append(op)
        return found


def slots_in(tree: Any) -> list[int]:
    """The slots that a tree of arguments names, in order."""
    if type(tree) is Ref:
        return [tree.slot]
    members = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return [slot for member in members for slot in slots_in(member)]


def renamed(tree: Any, names: dict[int, int]) -> Any:
    """The tree with other slots in the place of those in `names`."""
    if type(tree) is Ref:
        return Ref(names[tree.slot]) if tree.slot in names else tree
    if isinstance(tree, dict):
        return {k: renamed(v, names) for k, v in tree.items()}
    return type(tree)(renamed(v, names) for v in tree) if type(tree) in (list, tuple) else tree


def reading(op: Op, names: dict[int, int]) -> Op:
    """The same op on other slots."""
    if not any(slot in names for slot in op.reads):
        return op
    return Op(op.func, renamed(op.args, names), renamed(op.kwargs, names), op.writes, aliases=op.aliases)


def tensors_of(out: Any) -> list[Tensor]:
    """The tensors among an op's outputs."""
    if isinstance(out, Tensor):
        return [out]
    return [t for member in out for t in tensors_of(member)] if isinstance(out, list | tuple) else []


def tainted(ops: Iterable[Op], slots: Iterable[int]) -> set[int]:
    """All slots whose values depend on those given."""
    found = set(slots)
    for op in ops:
        if any(slot in found for slot in op.reads):
            found.update(op.writes)
    return found


def needed(ops: Sequence[Op], output: int) -> list[Op]:
    """The ops that the output depends on, in forward order."""
    wanted, kept = {output}, []
    for op in reversed(ops):
        if any(slot in wanted for slot in op.writes):
            wanted.update(op.reads)
            kept.append(op)
    return kept[::-1]


def _filled(tree: Any, values: Values) -> Any:
    kind = type(tree)
    if kind is Ref:
        return values[tree.slot]
    if kind is tuple or kind is list:
        return [_filled(v, values) for v in tree]
    return {k: _filled(v, values) for k, v in tree.items()} if kind is dict else tree
