"""From the tape of a loss under gates of one to a `Program`; what cannot be replayed faithfully is refused.

Writes in place become new values: that is the same as long as nobody reads the old value, or another view of its
memory, afterwards, which is checked. Refused: random ops, writes into parameters, buffers and inputs, `out=`, and
values behind a gate that Python reads (`.item()`, a branch) or that decide a shape. What leaves PyTorch unseen
(`.numpy()`, `.tolist()`) is not seen here either: compare with a full forward at a drawn mask.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchbonsai.surgery.gated import GatedLoss, checked
from torchbonsai.surgery.program import Op, Program, Ref, UnreplayableError, needed, reading, renamed, tainted
from torchbonsai.surgery.tape import Tape

_SILENT = ("aten::_assert", "profiler::")
_VALUE_DECIDES = frozenset({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape})


def record(gated: GatedLoss, batch: Any) -> Program:
    """The program of `gated(batch, ones)`. Raises UnreplayableError where it cannot be replayed faithfully."""
    ones = torch.ones(gated.graph.n_atoms, device=next(gated.model.parameters()).device)
    seen = gated.tensors(ones)
    tape = gated.tape(gated.parameters(), seen, ones)
    tape.count = None
    with torch.no_grad(), tape:
        loss = gated.run(batch, seen, tape.begin, lambda _: tape.finish())
    checked(loss, differentiable=False)
    return _Rewriting(tape).program(tape.slot(loss))


class _Rewriting:
    """From ops as they ran to ops that each make new values."""

    def __init__(self, tape: Tape) -> None:
        self.tape, self.like = tape, dict(tape.like)
        self.ops: list[Op] = []
        self.peeks: list[Op] = []
        self.now: dict[int, int] = {}  # slot that was written into -> the slot of its value since
        self.seen: set[int] = set()
        self.stale: set[int] = set()  # slots whose memory was written into through another

    def program(self, output: int) -> Program:
        """Raises UnreplayableError."""
        for op in self.tape.ops:
            self._add(op)
        self._fresh([output])
        output = self.now.get(output, output)
        behind = tainted([*self.ops, *self.peeks], [s.slot for s in self.tape.sources])
        for op in self.peeks:
            if behind.intersection(op.reads):
                raise UnreplayableError(f"{op.func} makes a value behind a gate decide a branch or a shape")
        ops = needed(self.ops, output)
        slots = {slot for op in ops for slot in op.reads} | {output}
        constants = {slot: value for slot, value in self.tape.constants.items() if slot in slots}
        return Program(ops, constants, self.tape.sources, output, self.like)

    def _add(self, op: Op) -> None:
        func: Any = op.func
        if _draws(func, op.args, op.kwargs):
            raise UnreplayableError(f"{func} draws random numbers")
        self._fresh(op.reads)
        made = self._written(op) if func._schema.is_mutable else reading(op, self.now)
        self.seen.update(op.reads, op.writes)
        if made.writes:
            self.ops.append(made)
        if _VALUE_DECIDES & set(func.tags) or (not made.writes and not func.name().startswith(_SILENT)):
            self.peeks.append(made)

    def _fresh(self, slots: Iterable[int]) -> None:
        if self.stale.intersection(slots):
            raise UnreplayableError("memory that was written into in place is read through another view")

    def _written(self, op: Op) -> Op:
        """An op in place: a new value of the tensor it writes into."""
        func: Any = op.func
        arguments = enumerate(func._schema.arguments)
        written = [i for i, a in arguments if a.alias_info is not None and a.alias_info.is_write]
        if written != [0] or not isinstance(op.args[0], Ref):
            raise UnreplayableError(f"{func} writes elsewhere than into its first argument")
        slot = op.args[0].slot
        root = self.tape.roots[slot]
        if root in self.tape.constants:
            raise UnreplayableError(f"{func} writes into a parameter, a buffer or an input")
        self.stale |= {s for s in self.seen if self.tape.roots[s] == root and s != slot}
        mixed = any(self.like[s][0] != self.like[slot][0] for s in op.reads)
        args, kwargs = renamed([op.args, op.kwargs], self.now)
        self.now[slot] = len(self.like)
        self.like[self.now[slot]] = self.like[slot]
        return Op(_out_of_place(func, mixed), args, kwargs, (self.now[slot],))


def _draws(func: Any, args: Any, kwargs: Any) -> bool:
    """Does the op draw random numbers? Fused attention does where its dropout is not zero."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    given = {a.name: value for a, value in zip(func._schema.arguments, args, strict=False)} | kwargs
    names = {a.name for a in func._schema.arguments}
    return "dropout_p" not in names or bool(given.get("dropout_p", 0.0))


def _out_of_place(func: Any, mixed: bool) -> Any:
    """The op that returns what `func` would have written; of mixed dtypes, it would promote where `func` does not."""
    if mixed:
        return partial(_on_a_copy, func)
    space, _, name = func._schema.name.partition("::")
    packet = getattr(getattr(torch.ops, space), name.removesuffix("_"), None) if name.endswith("_") else None
    other = getattr(packet, func._overloadname, None) if packet is not None else None
    return other if other is not None and not other._schema.is_mutable else partial(_on_a_copy, func)


def _on_a_copy(func: Any, first: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    copy = first.clone()
    func(copy, *args, **kwargs)
    return copy
