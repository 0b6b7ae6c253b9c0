"""Running only what lies behind a gate: the rest of the forward is computed once, and dropped when it is passed.

Memory: between two gates a replay holds what the ops behind that place of the forward still read, no more; a mask's
own values are dropped after their last reader.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchbonsai.graph.channel_graph import FROZEN, Ints
from torchbonsai.surgery.program import Op, Program, Ref, Source, Values, needed, slots_in, tainted

aten = torch.ops.aten
_IN_PLACE: dict[Any, Any] = {aten.relu.default: aten.relu_.default, aten.add.Tensor: aten.add_.Tensor}


class Replay:
    """One program on its batch. `focus` on some atoms, then call with gates that are one everywhere else."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.last_read = {slot: number for number, op in enumerate(program.ops) for slot in op.reads}
        self._rewind()
        self.sources: list[Source] = []
        self.behind: list[Op] = []
        self.drops: list[tuple[int, ...]] = []
        self.given: Values = {}

    def place(self, atoms: Ints) -> int:
        """The number of the first op that gates of these atoms change; the number of ops where there is none."""
        sources = {s.slot for s in self.program.sources if _meets(s, atoms)}
        first = (n for n, op in enumerate(self.program.ops) if sources.intersection(op.reads))
        return next(first, len(self.program.ops))

    def focus(self, atoms: Ints) -> None:
        """Compute all that gates of these atoms do not change. Cheapest in forward order."""
        place = self.place(atoms)
        if place < self.position:
            self._rewind()
        self._advance(place)
        self.sources = [s for s in self.program.sources if _meets(s, atoms)]
        ops = needed(self.program.ops[place:], self.program.output)
        changed = tainted(ops, [s.slot for s in self.sources])
        self.behind = [op for op in ops if changed.intersection(op.reads)]
        values = dict(self.values)
        for op in ops:
            if not changed.intersection(op.reads):
                op.run(values)
        kept = {slot for op in self.behind for slot in op.reads} | {self.program.output}
        self.given = {slot: value for slot, value in values.items() if slot in kept}
        self.behind = _in_place(self.program, self.behind)
        self.drops = _drops(self.behind, self.program.output)

    def __call__(self, g: Tensor) -> Tensor:
        """The loss at gates g (n_atoms,); only those of the atoms in focus may differ from one."""
        values = dict(self.given)
        for source in self.sources:
            values[source.slot] = source.make(g)
        for op, gone in zip(self.behind, self.drops, strict=True):
            op.run(values)
            for slot in gone:
                del values[slot]
        return values[self.program.output]

    def leave(self, forget: bool) -> None:
        """No more masks of these atoms. forget: drop what was computed up to here too; it can be computed again."""
        self.given, self.behind, self.drops = {}, [], []
        if forget:
            self._rewind()

    def held_bytes(self) -> int:
        """What is kept of the forward between two gates, the batch and the weights included."""
        kept = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in self.values.values()}
        return sum(kept.values())

    def _rewind(self) -> None:
        self.position = 0
        self.values = dict(self.program.constants)

    def _advance(self, place: int) -> None:
        """Run the ops before `place`, and forget what nobody behind it reads."""
        for number in range(self.position, place):
            op = self.program.ops[number]
            op.run(self.values)
            for slot in (*op.reads, *op.writes):
                if self.last_read.get(slot, -1) <= number and slot != self.program.output:
                    self.values.pop(slot, None)
        self.position = place


def _meets(source: Source, atoms: Ints) -> bool:
    return bool(np.isin(source.atoms[source.atoms != FROZEN], atoms).any())


def _drops(ops: list[Op], output: int) -> list[tuple[int, ...]]:
    """For every op, the slots that nobody reads after it."""
    seen, drops = {output}, []
    for op in reversed(ops):
        slots = tuple(s for s in dict.fromkeys((*op.reads, *op.writes)) if s not in seen)
        seen.update(slots)
        drops.append(slots)
    return drops[::-1]


def _in_place(program: Program, ops: list[Op]) -> list[Op]:
    """Pointwise ops write over a value that was made behind the gate and that nobody reads again."""
    own = {slot for op in ops if not op.aliases for slot in op.writes}
    shared = {slot for op in ops if op.aliases for slot in (*op.reads, *op.writes)} | {program.output}
    last = {slot: number for number, op in enumerate(ops) for slot in op.reads}

    def over(number: int, op: Op) -> Op:
        func = _IN_PLACE.get(op.func)
        if func is None or not isinstance(op.args[0], Ref):
            return op
        first = op.args[0].slot
        free = first in own and first not in shared and last[first] == number and slots_in(op.args).count(first) == 1
        return Op(func, op.args, op.kwargs, op.writes) if free and _alike(program, first, op.writes[0]) else op

    return [over(number, op) for number, op in enumerate(ops)]


def _alike(program: Program, a: int, b: int) -> bool:
    return program.like[a] == program.like[b]
