"""Widths baked into Python: prove a plan, and where it fails repair, try the other hypothesis, or freeze.

A repair edits attributes of the copy and keeps the selection. Everything else adds equalities or freezes to the
graph, and the selection has to be made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn

from torchbonsai.core.errors import PlanError, message
from torchbonsai.graph.blocks import concerned
from torchbonsai.graph.build import build
from torchbonsai.graph.channel_graph import Blocks, Bools, ChannelGraph, Ints, Source
from torchbonsai.graph.evidence import Evidence
from torchbonsai.graph.forward import alias_copy
from torchbonsai.graph.labels import Solution
from torchbonsai.graph.prove import Cut, Failure, Proof, prove, raw_keep
from torchbonsai.graph.record import Log, OpRecord
from torchbonsai.surgery.apply import apply, set_attribute
from torchbonsai.surgery.attributes import user_edits
from torchbonsai.surgery.plan import AttributeEdit, PruningPlan, Rescale, make_plan
from torchbonsai.surgery.repair import Repair, Repairs

Equal = tuple[Ints, Ints]
Place = tuple[bool, int]
"""(training, op number) of an op that failed."""
Assumed = dict[Place, list[Equal]]
_MOST_REPAIRS = 64
_MOST_GUESSES = 64
"""At one op; the likely ones come first."""
_WINDOWS = (0, 8, 32, 128, None)
"""How many ops before a failing one are looked at for the groups to freeze, step by step."""
_NEAR = 24
_MOST_TIES = 3


@dataclass(frozen=True, eq=False)
class Settled:
    """small: the proved module, None where the graph had to change and a new selection is needed."""

    graph: ChannelGraph
    plan: PruningPlan | None = None
    small: nn.Module | None = None


@dataclass
class Settler:
    """Remembers, across selections of one model, what was tried at each op that failed.

    retrace: makes the graph anew (hollow, what leaves where channels lie in blocks). Repairs and hypotheses are tried
    against hollow passes, too; before anything is frozen, the large network is run for real in the mode concerned, and
    must agree with its hollow pass.
    """

    model: nn.Module
    example_inputs: Any
    base: ChannelGraph
    retrace: Callable[[bool, Blocks], ChannelGraph]
    hollow: bool = True
    real: set[bool] = field(default_factory=set)
    tried: dict[Place, int] = field(default_factory=dict)
    froze: dict[Place, int] = field(default_factory=dict)
    equal: dict[Place, list[Equal]] = field(default_factory=dict)
    frozen: list[tuple[Ints, str, Source | None]] = field(default_factory=list)
    follows: bool = True
    helped: dict[tuple[str, int, str], int] = field(default_factory=dict)
    alongside: dict[Place, list[Place]] = field(default_factory=dict)
    repairs: Repairs = field(init=False)

    def __post_init__(self) -> None:
        self.repairs = Repairs(self.model, self.example_inputs)

    def settle(self, graph: ChannelGraph, kept: Bools) -> Settled:
        """Prove the plan that keeps `kept` (n_atoms,) of `graph`, or return an amended graph."""
        plan = make_plan(graph, kept, self.model)
        small = apply(plan, self.model)
        cut = Cut(graph.evidence, raw_keep(graph, kept))
        own = user_edits(self.model, plan.kept, plan.shapes) if self.follows else ()
        if own:
            _edit(small, own)
            proof = prove(graph, kept, small, self.example_inputs, cut=cut)
            if proof.failure is None:
                followed = replace(plan, edits=_merge(plan.edits, own))
                return self._settled(graph, followed, small, proof)
            _edit(small, tuple(replace(e, new=e.old) for e in own))
            _edit(small, plan.edits)
            self.follows = False
        before = self.repairs.trusted()
        learnt = self.repairs.again(cut.keep)
        plan = replace(plan, edits=_merge(plan.edits, learnt))
        _edit(small, learnt)
        proof = prove(graph, kept, small, self.example_inputs, cut=cut)
        for _ in range(_MOST_REPAIRS):
            if proof.failure is None:
                return self._settled(graph, plan, small, proof)
            repaired = self._repair(graph, kept, plan, small, proof.failure, cut)
            if repaired is None and self.repairs.forget(before, proof.failure.modules):
                return self.settle(graph, kept)
            if repaired is None:
                return Settled(self._amend(graph, kept, proof.failure))
            plan, small, proof = repaired
        return (
            Settled(self._amend(graph, kept, proof.failure))
            if proof.failure
            else self._settled(graph, plan, small, proof)
        )

    def _settled(self, graph: ChannelGraph, plan: PruningPlan, small: nn.Module, proof: Proof) -> Settled:
        """The proved plan with what the proof taught of numbers: rows to rescale, and what is inexact."""
        inexact = dict.fromkeys((*plan.inexact, *(why for _, why in proof.inexact)))
        names = {n: [n, *(a for a, b in graph.aliases.items() if b == n)] for n in (r.name for r, _ in proof.rescaled)}
        scales = [
            Rescale(name, row.axis, torch.from_numpy(row.positions), factor)
            for row, factor in proof.rescaled
            for name in names[row.name]
        ]
        plan = replace(plan, inexact=tuple(inexact), scales=tuple(scales))
        return Settled(graph, plan, apply(plan, self.model) if scales else small)

    # ------------------------------------------------------------------ repair by guess
    def _repair(
        self, graph: ChannelGraph, kept: Bools, plan: PruningPlan, small: nn.Module, failure: Failure, cut: Cut
    ) -> tuple[PruningPlan, nn.Module, Proof] | None:
        """An edit of ints on a running module that carries the proof on, there and at its siblings.

        The first that leads out of the module, for a wrong one passes the failing op and fails soon after; else the
        one that leads furthest.
        """
        best: tuple[Repair, tuple[AttributeEdit, ...], nn.Module, Proof] | None = None
        for repair, edits in islice(self.repairs.guesses(small, failure, cut.keep), _MOST_GUESSES):
            candidate, proof = self._edited(graph, kept, small, edits, cut)
            reached = failure if best is None else best[3].failure
            assert reached is not None, "the search ends where nothing fails"
            if proof.failure is None or _further(proof.failure, reached, graph.evidence):
                best = repair, edits, candidate, proof
                if proof.failure is None or repair.path not in proof.failure.modules:
                    break
        if best is None:
            return None
        repair, edits, candidate, proof = best
        self.repairs.known.append(repair)
        if proof.failure is not None:
            others, more = self.repairs.siblings(repair, candidate, cut.keep)
            wider, second = self._edited(graph, kept, candidate, more, cut) if more else (candidate, proof)
            if more and (second.failure is None or _further(second.failure, proof.failure, graph.evidence)):
                self.repairs.known += others
                candidate, proof, edits = wider, second, (*edits, *more)
        return replace(plan, edits=_merge(plan.edits, edits)), candidate, proof

    def _edited(
        self, graph: ChannelGraph, kept: Bools, small: nn.Module, edits: tuple[AttributeEdit, ...], cut: Cut
    ) -> tuple[nn.Module, Proof]:
        candidate = alias_copy(small)  # the tensors are right already, only attributes differ
        _edit(candidate, edits)
        return candidate, prove(graph, kept, candidate, self.example_inputs, cut=cut)

    def _real(self, graph: ChannelGraph, log: Log) -> bool:
        """Does the large network, run for real, agree with what its hollow pass showed?"""
        if log.hollow and log.training not in self.real:
            whole = np.ones(graph.n_atoms, dtype=bool)
            if prove(graph, whole, self.model, self.example_inputs, (log.training,), hollow=False).failure is not None:
                return False
            self.real.add(log.training)
        return True

    def _start_again(self, blocks: Blocks) -> ChannelGraph:
        """What was learnt against other passes is forgotten."""
        self.tried, self.froze, self.equal, self.frozen, self.helped = {}, {}, {}, [], {}
        self.alongside = {}
        self.repairs = Repairs(self.model, self.example_inputs)
        self.base = self.retrace(self.hollow, blocks)
        return self.base

    # ------------------------------------------------------------------ the graph changes
    def _amend(self, graph: ChannelGraph, kept: Bools, failure: Failure) -> ChannelGraph:
        """The next hypothesis for the failing op, what helped at the same line before first; at last, a freeze."""
        site = (failure.log.training, failure.index)
        solution = self.base.evidence.solution
        options = list(hypotheses(failure.log, failure.index, solution))
        self._withdraw(site)
        first = self.helped.get(_line(failure), 0) if site not in self.tried else 0
        for step in range(self.tried.get(site, first - 1) + 1, len(options)):
            self.tried[site] = step
            assumed, candidate = self._assume(failure, options, step)
            if not _collapsed(candidate, failure.seen):
                self.equal |= assumed
                self.tried |= dict.fromkeys(assumed, step)
                self.helped[_line(failure)] = step
                self.alongside[site] = [p for p in assumed if p != site]
                return candidate
        evidence: Evidence = self.base.evidence
        if not self._real(graph, failure.log):
            self.hollow = False
            return self._start_again(evidence.blocks)
        if other := concerned(evidence, failure.seen):
            return self._start_again({**evidence.blocks, **other})
        self.tried[site] = len(options)
        self.equal.pop(site, None)
        froze = self.froze[site] = self.froze.get(site, -1) + 1
        self._freeze(graph, kept, failure, _WINDOWS[min(froze, len(_WINDOWS) - 1)])
        return build(self._amended())

    def _assume(self, failure: Failure, options: list[list[Equal]], step: int) -> tuple[Assumed, ChannelGraph]:
        """Hypothesis `step` for the failing op and, as far as nothing collapses, for ops like it; the new graph."""
        site = (failure.log.training, failure.index)
        assumed = {site: options[step]} | self._elsewhere(failure, step, len(options))
        candidate = build(self._amended({**self.equal, **assumed}))
        others = [p for p in assumed if p != site]
        if others and not _collapsed(candidate, failure.seen):
            others = [p for p in others if _collapsed(candidate, _touched(failure.log, p[1]))]
        if others:
            assumed = {p: equal for p, equal in assumed.items() if p not in others}
            candidate = build(self._amended({**self.equal, **assumed}))
        return assumed, candidate

    def _withdraw(self, site: Place) -> None:
        """The assumption at an op has failed: what was assumed elsewhere for its sake goes with it."""
        step = self.tried.get(site)
        for place in self.alongside.pop(site, []):
            if self.tried.get(place) == step:
                del self.tried[place], self.equal[place]

    def _elsewhere(self, failure: Failure, step: int, count: int) -> dict[Place, list[Equal]]:
        """The same assumption for the same op on the same shapes, or at the same line: in other blocks."""
        found: dict[Place, list[Equal]] = {}
        others = [*alike(failure.log, failure.index), *self.repairs.same_line(failure.log, failure.index)]
        for index in dict.fromkeys(others):
            site = (failure.log.training, index)
            if site not in self.tried:
                options = list(hypotheses(failure.log, index, self.base.evidence.solution))
                if len(options) == count:
                    found[site] = options[step]
        return found

    def _freeze(self, graph: ChannelGraph, kept: Bools, failure: Failure, window: int | None) -> None:
        """The removed groups that the failing op sees, or the `window` ops before it too; None: all of them.

        Where the op says which channels may not move, theirs come first.
        """
        keep = raw_keep(graph, kept)
        labels = np.arange(keep.size) if window is None else _labels_before(failure, window)
        labels = labels[~keep[labels]] if window != 0 or failure.fixed is None else failure.fixed
        untied = build(self._amended())  # what a failed hypothesis tied together is not to blame
        component = untied.evidence.solution.component
        seen = np.unique(component[labels])
        groups = [
            raw
            for g in untied.groups
            if np.isin(component[raw := _raw(untied, g.offset, g.offset + g.size)], seen).any()
        ]
        if not groups and window is not None:
            self._freeze(graph, kept, failure, _WINDOWS[_WINDOWS.index(window) + 1])
            return
        if not groups:
            raise PlanError(
                message(
                    "A plan's routing must be proved before it is applied.",
                    f"{failure.reason} ({failure.source})",
                    "the forward is not deterministic, or depends on something outside the model",
                    "make the forward depend on its inputs and parameters only",
                )
            )
        reason = f"the width is baked into the code: {failure.reason}"
        self.frozen += [(labels, reason, failure.source) for labels in groups]

    def _amended(self, equal: Mapping[Place, list[Equal]] | None = None) -> Evidence:
        """The base evidence with what is assumed (default: what was found to help) and frozen so far."""
        chosen = self.equal if equal is None else equal
        return self.base.evidence.amended([e for es in chosen.values() for e in es], self.frozen)


def _collapsed(graph: ChannelGraph, seen: Ints) -> bool:
    """Are channels that the op sees tied into a group of one, which can never be removed?"""
    component = graph.evidence.solution.component
    atoms = np.unique(component[seen])
    return any(
        g.size == 1 and np.isin(component[_raw(graph, g.offset, g.offset + 1)], atoms).any() for g in graph.groups
    )


def _edit(model: nn.Module, edits: tuple[AttributeEdit, ...]) -> None:
    for edit in edits:
        set_attribute(model.get_submodule(edit.module), edit)


def _line(failure: Failure) -> tuple[str, int, str]:
    return failure.source.file, failure.source.line, failure.record.name if failure.record else ""


def _touched(log: Log, index: int) -> Ints:
    """The labels that the op reads."""
    arrays = [f.labels.ravel() for s in log.records[index].inputs for f in s.fields]
    return np.unique(np.concatenate([np.zeros(0, np.int64), *arrays]))


def _labels_before(failure: Failure, window: int) -> Ints:
    """The removed labels that the failing op, and `window` ops before it, touch."""
    records = failure.log.records[max(0, failure.index - window) : failure.index]
    arrays = [f.labels.ravel() for r in records for s in r.inputs for f in s.fields]
    return np.unique(np.concatenate([failure.seen, *arrays]))


def _raw(graph: ChannelGraph, start: int, stop: int) -> Ints:
    """The raw labels of parameters and buffers that name atoms start … stop - 1."""
    found = [
        graph.evidence.labels[name][axis][(atoms >= start) & (atoms < stop)]
        for name, axes in graph.axes.items()
        for axis, atoms in axes.items()
    ]
    return np.concatenate(found)


def _merge(edits: tuple[AttributeEdit, ...], more: tuple[AttributeEdit, ...]) -> tuple[AttributeEdit, ...]:
    merged = {(e.module, e.attribute): e for e in edits}
    for e in more:
        before = merged.get((e.module, e.attribute))
        merged[(e.module, e.attribute)] = replace(e, old=before.old) if before else e
    return tuple(merged.values())


def _further(now: Failure, before: Failure, evidence: Evidence) -> bool:
    """Did the proof get past the op at which it failed?"""
    order = {id(log): k for k, log in enumerate(evidence.proofs)}
    return (order[id(now.log)], now.index) > (order[id(before.log)], before.index)


# ---------------------------------------------------------------------- other hypotheses
def alike(log: Log, index: int) -> list[int]:
    """Numbers of the ops with the same name, shapes and labelled axes as op `index`."""

    def form(record: OpRecord) -> tuple[Any, ...]:
        inputs = tuple((f.axes, f.labels.shape) for s in record.inputs for f in s.fields)
        return record.name, record.shapes, inputs

    wanted = form(log.records[index])
    return [i for i, record in enumerate(log.records) if i != index and form(record) == wanted]


def hypotheses(log: Log, index: int, solution: Solution) -> Iterator[list[Equal]]:
    """Equalities under which the failing op may follow, those that leave most atoms first.

    Where an op cuts or regroups an axis, position j of every part leaves together, or whole parts do.
    """
    record = log.records[index] if index < len(log.records) else None
    if record is not None and record.kind == "creation":  # as wide as something else, by the code
        yield from _ties(log, index, solution)
    if record is None or record.kind != "layout":
        return
    fields = [f.labels for out in record.outputs for f in out] + [f.labels for s in record.inputs for f in s.fields]
    found: dict[tuple[int, ...], list[Equal]] = {}
    for labels in (f for f in fields if not solution.is_frozen(f).any()):  # or all would be frozen, for a wrong reason
        for rows, axis in _regroupings(labels, fields):
            first = rows.take([0], axis=axis)
            key = (first.size, rows.shape[0], axis)
            found.setdefault(key, []).append((rows, np.broadcast_to(first, rows.shape)))
    yield from (found[key] for key in sorted(found, reverse=True))
    yield from _ties(log, index, solution)


def _ties(log: Log, index: int, solution: Solution) -> Iterator[list[Equal]]:
    """The op's axis may be a multiple of another width that the code computes with: tie them position by position."""
    record = log.records[index]
    before = log.records[max(0, index - _NEAR) : index]
    flat = (f.labels for r in reversed(before) for s in r.inputs for f in s.fields if f.labels.ndim == 1)
    near = {id(labels): labels for labels in flat if not solution.is_frozen(labels).any()}
    for labels in (*(f.labels for s in record.inputs for f in s.fields if f.labels.ndim == 1), *record.fresh):
        fitting = (
            o for o in near.values() if o.size > 1 and labels.size % o.size == 0 and not np.isin(o, labels).any()
        )
        for other in islice(fitting, _MOST_TIES):
            rows = labels.reshape(-1, other.size)
            yield [(rows, np.broadcast_to(other, rows.shape))]


def _regroupings(labels: Ints, fields: list[Ints]) -> Iterator[tuple[Ints, int]]:
    """Ways to see an axis as equal parts: (the labels regrouped, the axis along which equals leave together)."""
    if labels.ndim > 1:
        yield from ((labels, axis) for axis in range(labels.ndim))
        return
    for part in dict.fromkeys(f.size for f in fields if f.ndim == 1):
        if 0 < part < labels.size and labels.size % part == 0:
            rows = labels.reshape(-1, part)
            yield rows, 0
            yield rows, 1
