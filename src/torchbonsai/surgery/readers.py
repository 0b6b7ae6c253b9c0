"""Who reads what a plan removes, and what of theirs could take up a constant: a bias, or the mean of a norm behind.

Read from the ops of the traced eval passes, never from module types. A reader that cannot take a constant up is refused
with its reason; what it read is then masked, as without folding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from torchbonsai.graph.channel_graph import Bools, ChannelGraph
from torchbonsai.graph.labels import Shadow
from torchbonsai.graph.record import Log, OpRecord
from torchbonsai.graph.rules.per_channel import BATCH_NORMS
from torchbonsai.surgery.contraction import Contraction, contraction
from torchbonsai.surgery.fold import Fold
from torchbonsai.surgery.gates import atom_numbers
from torchbonsai.surgery.plan import PruningPlan

_SILENT = frozenset({"layout", "creation"})
"""Kinds of ops that pass values on, or look at shapes alone."""


class _NoPlaceError(Exception):
    """Why a reader cannot take a constant up."""


def readers(graph: ChannelGraph, plan: PruningPlan, kept: Bools) -> tuple[list[Fold], dict[str, str]]:
    """(a fold without values for every contraction that can take some up, the others' names -> why they cannot).

    Every eval pass must say the same of a contraction. A new bias is only proposed; whether the code would use it has
    to be tried. kept: (n_atoms,).
    """
    found: dict[str, Fold] = {}
    refused: dict[str, str] = {}
    for log in (log for log in graph.evidence.logs if not log.training):
        one = _Pass(graph, plan, kept, log)
        for index, record in enumerate(log.records):
            if not one.loses(record):
                continue
            name = _name(record)
            try:
                fold = one.fold(index, record)
                if name in found and _form(found[name]) != _form(fold):
                    raise _NoPlaceError("one example's pass uses it in another way than another's")
                found[name] = fold
            except _NoPlaceError as reason:
                refused[name] = str(reason)
    return [fold for name, fold in found.items() if name not in refused], refused


def _form(fold: Fold) -> tuple[Any, ...]:
    return fold.weight, fold.axis, fold.groups, fold.name, fold.into, fold.padded


def _name(record: OpRecord) -> str:
    found = contraction(record.name, record.arguments)
    leaf = _leaf(found.weight) if found is not None else None
    return leaf or next((s.leaf for s in record.inputs if s.leaf is not None), None) or record.name


def _leaf(value: Any) -> str | None:
    return value.leaf if isinstance(value, Shadow) else None


@dataclass(frozen=True, eq=False)
class _Pass:
    """One eval pass of the trace, and what a plan removes of it."""

    graph: ChannelGraph
    plan: PruningPlan
    kept: Bools
    log: Log

    def loses(self, record: OpRecord) -> bool:
        """Does the op sum over channels that are removed?"""
        return any(not self.stays[c.labels].all() for c in record.consumed)

    @cached_property
    def stays(self) -> Bools:
        """(labels,) does what the label names stay?"""
        solution = self.graph.evidence.solution
        atoms = atom_numbers(self.graph, solution)[solution.component]
        stays: Bools = np.append(self.kept, True)[atoms]  # FROZEN = -1 reads the last entry
        return stays

    def fold(self, index: int, record: OpRecord) -> Fold:
        """The fold, its values zero. Raises _NoPlaceError."""
        found = contraction(record.name, record.arguments)
        if found is None:
            raise _NoPlaceError(f"{record.name} takes no bias that could hold a constant")
        weight, axis = self._weight(found)
        if {c.weight for c in record.consumed} - {weight, None}:
            raise _NoPlaceError("several weights are contracted at once")
        stays = self.plan.kept[weight][axis]
        width = self.graph.shapes[weight][axis]
        gone = torch.ones(width, dtype=torch.bool)
        gone[stays] = False
        positions = torch.nonzero(gone.repeat(found.groups)).flatten()
        zeros = torch.zeros(len(positions), dtype=torch.float64)
        fold = Fold(weight, axis, found.groups, width, positions, zeros, "", "bias", bool(found.padding))
        fold = self._bias(found, fold) or self._mean(index, record, fold) or self._new(found, fold)
        if {fold.weight, fold.name} & {s.name for s in self.plan.scales}:
            raise _NoPlaceError("its rows are rescaled, for the code computes a number from their width")
        return fold

    def _weight(self, found: Contraction) -> tuple[str, int]:
        """The parameter that the op gets as it is, or transposed, and the axis of it that is contracted."""
        name, labels = _leaf(found.weight), self.graph.evidence.labels
        if name is None or name not in self.graph.parameters:
            raise _NoPlaceError("its weight is computed in the forward")
        matrix = len(self.graph.shapes[name]) == 2
        for turned in (False, True) if matrix else (False,):
            wanted = {1 - a if turned else a: own for a, own in labels[name].items()}
            axis = 1 - found.contracts if turned else found.contracts
            if _same(found.weight, wanted) and axis in self.plan.kept.get(name, {}):
                if sum(_is_read(r, name) for r in self.log.records) != 1:
                    raise _NoPlaceError("its weight is read more than once in a pass")
                return name, axis
        raise _NoPlaceError("its weight is rearranged in the forward")

    def _bias(self, found: Contraction, fold: Fold) -> Fold | None:
        name = _leaf(found.bias)
        if name is None or name not in self.graph.parameters or not self._alone(name, fold):
            return None
        return replace(fold, name=name) if _same(found.bias, self.graph.evidence.labels[name]) else None

    def _mean(self, index: int, record: OpRecord, fold: Fold) -> Fold | None:
        """The running mean of the batch norm that alone reads what the op makes."""
        records = self.log.records
        behind = [r for r in records if r.kind not in _SILENT and any(index in o for o in r.origins)]
        if len(behind) != 1 or index in self.log.returned_by or not _is_norm(behind[0]):
            return None
        norm = behind[0]
        mean = norm.arguments[3]
        name = _leaf(mean)
        made, read = (
            next((f.labels for f in s.fields if f.axes == (1,)), None) for s in (record.made[0], norm.inputs[0])
        )
        if norm.origins[0] != (index,) or made is None or read is None or not np.array_equal(made, read):
            return None
        if name is None or name in self.graph.parameters or not self._alone(name, fold):
            return None
        if not _same(mean, self.graph.evidence.labels[name]):
            return None
        return replace(fold, name=name, into="running mean")

    def _new(self, found: Contraction, fold: Fold) -> Fold:
        if found.bias is not None:
            raise _NoPlaceError("its bias is computed in the forward, or read elsewhere too")
        path, _, attribute = fold.weight.rpartition(".")
        if attribute != "weight" or fold.weight in self.graph.aliases.values():
            raise _NoPlaceError("it has no bias, and its module no place for one")
        return replace(fold, name=f"{path}.bias" if path else "bias", into="new bias")

    def _alone(self, name: str, fold: Fold) -> bool:
        """Has the tensor a number for each output, and does one op alone read it?"""
        outputs = self.graph.shapes[fold.weight][1 - fold.axis]
        return self.graph.shapes[name] == (outputs,) and sum(_is_read(r, name) for r in self.log.records) == 1


def _same(shadow: Any, labels: Any) -> bool:
    """Does a tensor carry, axis by axis, these labels, in their order?"""
    own = {f.axes: f.labels for f in shadow.fields}
    return own.keys() == {(a,) for a in labels} and all(np.array_equal(own[(a,)], ls) for a, ls in labels.items())


def _is_read(record: OpRecord, leaf: str) -> bool:
    return record.kind not in _SILENT and any(s.leaf == leaf for s in record.inputs)


def _is_norm(record: OpRecord) -> bool:
    """A batch norm by its running statistics?"""
    name = "::".join(record.name.split(".")[:2])
    if name not in BATCH_NORMS or len(record.arguments) < 6 or not isinstance(record.arguments[3], Shadow):
        return False
    return "no_training" in name or "no_update" in name or not record.arguments[5]
