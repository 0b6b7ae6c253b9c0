"""A number that follows a width (1 / sqrt(head width), 1 / channels), kept as it was: as a factor of weights.

Where code computes a factor from a width, the small network computes another one. If that factor multiplies what one
layer made, and nobody else reads it, the layer's rows take up the difference and the function stays the dense one's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from torchbonsai.graph.channel_graph import Inexact, Ints
from torchbonsai.graph.evidence import Evidence
from torchbonsai.graph.labels import Shadow
from torchbonsai.graph.record import Log, OpRecord
from torchbonsai.graph.rules.per_channel import BATCH_NORMS

_SILENT = frozenset({"layout", "creation"})
"""Kinds of ops that pass values on, or look at shapes alone."""
_COPIES = frozenset({"aten.clone", "aten.contiguous", "aten.alias", "aten.detach", "aten._to_copy"})
_SUMS = frozenset({"aten.add", "aten.add_"})
_POWER = {"aten.mul": 1, "aten.div": -1, "aten.mul_": 1, "aten.div_": -1, "aten.true_divide": -1}


class Rows(NamedTuple):
    """Dense positions along one axis of a parameter."""

    name: str
    axis: int
    positions: Ints


@dataclass(frozen=True, eq=False)
class Followed:
    """At op `index` of `log` the small network multiplies by `factor` too little; `removed`, `why`: if it must."""

    log: Log
    index: int
    factor: float
    removed: Ints
    why: Inexact


def missing_factor(large: OpRecord, small: OpRecord) -> float | None:
    """What the small network's first operand must be multiplied by; None where the op does not multiply it."""
    if large.scalars == small.scalars and large.values == small.values:
        return large.scale / small.scale if large.scale and small.scale else None
    power = _POWER.get(large.name.rpartition(".")[0])
    if power is None or len(large.inputs) != 1 or len(large.scalars) != 1:
        return None
    was, now = large.scalars[0], small.scalars[0]
    if not all(isinstance(n, int | float) and n for n in (was, now)):
        return None
    return float((was / now) ** power)


def folded(evidence: Evidence, followed: Sequence[Followed]) -> tuple[list[tuple[Rows, float]], list[Followed]]:
    """(rows to multiply by factors, numbers that no layer can take up).

    Every pass that reads a row must miss the same factor there.
    """
    wanted: dict[tuple[str, int, bytes], tuple[Rows, dict[int, float]]] = {}
    lost: list[Followed] = []
    tied: dict[tuple[str, int, bytes], list[Followed]] = {}
    for one in followed:
        rows = _rows(evidence, one.log, one.index)
        if rows is None:
            lost.append(one)
            continue
        for row in rows:
            key = (row.name, row.axis, row.positions.tobytes())
            _, factors = wanted.setdefault(key, (row, {}))
            factors[id(one.log)] = factors.get(id(one.log), 1.0) * one.factor
            tied.setdefault(key, []).append(one)
    spoilt: dict[int, Followed] = {}
    unsure = {k for k, (row, factors) in wanted.items() if not _alike(evidence, row, factors)}
    while new := {id(one): one for k in unsure for one in tied[k] if id(one) not in spoilt}:
        spoilt |= new  # and with it all rows that it would have needed
        unsure |= {k for k, ones in tied.items() if any(id(one) in new for one in ones)}
    rows_left = [(row, next(iter(factors.values()))) for k, (row, factors) in wanted.items() if k not in unsure]
    return rows_left, [*lost, *spoilt.values()]


def _alike(evidence: Evidence, row: Rows, factors: dict[int, float]) -> bool:
    reading = [log for log in evidence.proofs if any(s.leaf == row.name for r in log.records for s in r.inputs)]
    found = [factors.get(id(log)) for log in reading]
    return None not in found and len(set(found)) == 1


def _rows(evidence: Evidence, log: Log, index: int) -> list[Rows] | None:
    """The rows of the layer that made, alone and for this op alone, the first operand of op `index`.

    Between the two may lie copies, factors, and the addition of a bias.
    """
    reader, which = index, 0
    labels = np.concatenate([np.zeros(0, np.int64), *(f.labels.ravel() for f in log.records[index].inputs[0].fields)])
    if not labels.size or not labels.all() or _meets(labels, (f.labels for out in log.returned for f in out)):
        return None
    biases: list[Rows] = []
    while True:
        origins = log.records[reader].origins[which]
        if len(origins) != 1 or _read_elsewhere(log, origins[0], reader, labels):
            return None
        reader = origins[0]
        made = log.records[reader]
        name = made.name.rpartition(".")[0]
        varying = [k for k, s in enumerate(made.inputs) if s.dynamic]
        if len(varying) != 1:
            return None
        which = varying[0]
        if _copies(made, name) or (name in _POWER and len(made.inputs) == 1):
            continue
        rows = _rows_of(evidence, log, made, labels)
        if rows is None:
            return None
        biases += rows
        if name not in _SUMS:
            return biases


def _copies(made: OpRecord, name: str) -> bool:
    """Does the op hand on what it reads, unrounded but for the precision of floats?"""
    return name in _COPIES and all(a.is_floating_point for a in made.arguments if isinstance(a, torch.dtype))


def _read_elsewhere(log: Log, maker: int, reader: int, labels: Ints) -> bool:
    return any(
        maker in origins and _meets(labels, (f.labels for f in s.fields))
        for k, record in enumerate(log.records)
        if k != reader and record.kind not in _SILENT
        for s, origins in zip(record.inputs, record.origins, strict=True)
    )


def _rows_of(evidence: Evidence, log: Log, made: OpRecord, labels: Ints) -> list[Rows] | None:
    """Rows of the parameters by which an op makes `labels`, each label once.

    Of a linear layer or a convolution, of a batch norm, or of a bias that is added. Only parameters are rescaled: a
    buffer among them may be a table.
    """
    name = made.name.rpartition(".")[0]
    norm = name.replace(".", "::") in BATCH_NORMS
    if not norm and name not in _SUMS and made.kind != "contraction":
        return None
    still = made.arguments[1:3] if norm else [s for s in made.inputs if not s.dynamic]  # a norm: weight and bias
    leaves = dict.fromkeys(s.leaf for s in still if isinstance(s, Shadow))
    if not evidence.parameters.issuperset(leaves) or (norm and made.arguments[1] is None):
        return None
    output = next((f.labels for f in made.outputs[0] if len(f.axes) == 1), np.zeros(0, np.int64))
    positions = np.flatnonzero(np.isin(output, labels))
    if np.unique(output).size != output.size or positions.size != np.unique(labels).size:
        return None
    found = []
    for leaf in map(str, leaves):
        rows = _rows_along(evidence, leaf, output, positions)
        if rows is None or sum(_reads(r, leaf) for r in log.records) != 1 or _returns(evidence, log, leaf):
            return None
        found.append(rows)
    makes = norm or name in _SUMS or any("produces" in evidence.roles.get((r.name, r.axis), ()) for r in found)
    return found if found and makes else None


def _reads(record: OpRecord, leaf: str) -> int:
    """How often an op reads a parameter; ops that only give it another shape do not."""
    if record.kind == "layout" and all(s.leaf == leaf for s in record.made):
        return 0
    return sum(s.leaf == leaf for s in record.inputs)


def _returns(evidence: Evidence, log: Log, leaf: str) -> bool:
    mine = [f.labels.ravel() for f in evidence.shadows[leaf].fields]
    return bool(mine) and _meets(np.concatenate(mine), (f.labels for out in log.returned for f in out))


def _rows_along(evidence: Evidence, name: str, output: Ints, positions: Ints) -> Rows | None:
    """The axis of a layer's parameter that goes along its outputs: the same labels, or those of its only axis."""
    axes = evidence.labels[name]
    for axis, mine in axes.items():
        if np.array_equal(mine, output) or (len(axes) == 1 == len(evidence.shapes[name]) and mine.size == output.size):
            return Rows(name, axis, positions)
    return None


def _meets(labels: Ints, others: Iterator[Ints]) -> bool:
    return any(np.isin(labels, other).any() for other in others)
