"""The proof: the small network's own forward, run under the tracer, must agree with the large trace op by op.

It speaks of routing: the same ops in the same order, the same raw labels, position ids, sizes and equalities. Numbers
are checked elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from torchbonsai.graph.call import POSITION, Call, flat_tensors, read
from torchbonsai.graph.channel_graph import Bools, ChannelGraph, Inexact, Ints, Source
from torchbonsai.graph.evidence import Evidence
from torchbonsai.graph.fold import Followed, Rows, folded, missing_factor
from torchbonsai.graph.forward import Example, alias_copy, as_examples, cropped, doubled, set_mode, undisturbed
from torchbonsai.graph.labels import INPUT, Field, LabelSpace, Shadow
from torchbonsai.graph.record import Log, OpRecord
from torchbonsai.graph.rules import registry
from torchbonsai.graph.trace import forward, module_names, named_tensors
from torchbonsai.graph.tracer import Tracer, find_source, mark


class Mismatch(BaseException):
    """Stops the small forward at the first difference; not an Exception, so that no user code swallows it."""


@dataclass(frozen=True, eq=False)
class Failure:
    """The first difference. index: the op's number in `log`; seen: raw labels that the op touches.

    fixed: those among them that the small network's op would freeze, and the large one's did not.
    """

    log: Log
    index: int
    reason: str
    source: Source
    modules: tuple[str, ...]
    seen: Ints
    fixed: Ints | None = None

    @property
    def record(self) -> OpRecord | None:
        """The op of the large trace at which the small forward went another way."""
        return self.log.records[self.index] if self.index < len(self.log.records) else None


@dataclass
class Proof:
    """failure None: the routing is proved. inexact: (atoms' raw labels, why) of widths used as values.

    rescaled: rows of weights that take up a factor which followed a width, so that it stays as it was.
    """

    failure: Failure | None = None
    inexact: list[tuple[Ints, Inexact]] = field(default_factory=list)
    rescaled: list[tuple[Rows, float]] = field(default_factory=list)


def raw_keep(graph: ChannelGraph, kept: Bools) -> Bools:
    """(labels,) does the raw label stay? `kept`: (n_atoms,)."""
    evidence: Evidence = graph.evidence
    component = evidence.solution.component
    stays = np.ones(evidence.solution.why.size, dtype=bool)
    with_frozen = np.append(kept, True)
    for name, axes in graph.axes.items():
        for axis, atoms in axes.items():
            stays[component[evidence.labels[name][axis]]] = with_frozen[atoms]
    return stays[component]


def prove(
    graph: ChannelGraph,
    kept: Bools,
    small: nn.Module,
    example_inputs: Any,
    modes: tuple[bool, ...] = (False, True),
    hollow: bool = True,
    cut: Cut | None = None,
) -> Proof:
    """Run `small` in every mode that was traced, and compare; `small` itself is not touched.

    modes: of training. hollow: train passes may go without values where the large one did; eval passes never do. cut:
    of another proof of the same `graph` and `kept`, which saves some work.
    """
    evidence: Evidence = graph.evidence
    examples = as_examples(example_inputs)
    copy = alias_copy(small)
    proof = Proof()
    followed: list[Followed] = []
    cut = cut.again() if cut is not None else Cut(evidence, raw_keep(graph, kept))
    shadows = cut.shadows(copy)
    names = module_names(copy)
    with undisturbed(small):
        for training in modes:
            logs = [log for log in evidence.proofs if log.training is training]
            set_mode(copy, training)
            for log in logs:
                for tensor, shadow in shadows:
                    tensor._bonsai = shadow  # type: ignore[attr-defined]
                prover = Prover(cut, log, names, proof, hollow and training and log.hollow)
                example = cropped(examples[log.example], log.crop)
                _run(copy, doubled(example) if log.doubled else example, prover)
                if proof.failure is not None:
                    return proof
                followed += prover.followed
    proof.rescaled, lost = folded(evidence, followed)
    proof.inexact += [(one.removed, one.why) for one in lost]
    return proof


class Cut:
    """The large network's labels and shadows as the small one has them. keep: (labels,) does the raw label stay?

    Shared by the passes of one proof. small: what was found to carry in the small network what a shadow of the large
    trace carries there, along axes that have more than one position in both or in neither.
    """

    def __init__(self, evidence: Evidence, keep: Bools) -> None:
        self.evidence, self.keep = evidence, keep
        self.small: dict[Shadow, Shadow] = {INPUT: INPUT}
        self._arrays: dict[int, Ints] = {}
        self._restricted: dict[int, Ints] = {}
        self._equal: dict[tuple[int, int], tuple[Ints, Ints]] = {}

    def again(self) -> Cut:
        """For another proof of the same cut: what was found of the small network is left out."""
        other = Cut(self.evidence, self.keep)
        other._restricted, other._equal = self._restricted, self._equal
        return other

    def shadows(self, small: nn.Module) -> list[tuple[torch.Tensor, Shadow]]:
        """Every parameter and buffer of the small network with its labels."""
        found: dict[int, tuple[torch.Tensor, Shadow]] = {}
        for name, tensor in named_tensors(small):
            large = self.evidence.shadows.get(name)
            if large is not None and id(tensor) not in found:
                fields = tuple(Field(f.axes, self.restrict(f.labels)) for f in large.fields)
                found[id(tensor)] = tensor, self.meet(large, Shadow(fields, False, name))
        return list(found.values())

    def meet(self, large: Shadow, small: Shadow) -> Shadow:
        """The two were found to agree; the shadow that stands for `large` from now on."""
        if large.places or small.places or large.dynamic != small.dynamic or large.leaf != small.leaf:
            return small
        for a, b in zip(large.fields, small.fields, strict=True):
            if 1 in b.labels.shape and a.labels.shape != b.labels.shape:
                return small
            self._arrays.setdefault(id(a.labels), b.labels)
        return self.small.setdefault(large, small)

    def stands_for(self, large: Shadow) -> Shadow | None:
        """The small network's shadow where `large` carries arrays that are known already; None where it may not."""
        known = self.small.get(large)
        if known is None:
            arrays = [self._arrays.get(id(f.labels)) for f in large.fields]
            fields = tuple(Field(f.axes, b) for f, b in zip(large.fields, arrays, strict=True) if b is not None)
            if len(fields) == len(large.fields):
                known = self.small[large] = Shadow(fields, large.dynamic, large.leaf)
        return known

    def same(self, small: tuple[Any, ...], large: tuple[Any, ...]) -> bool:
        """Are the arguments of an op the same, or what stands for them?"""
        if len(small) != len(large):
            return False
        for a, b in zip(small, large, strict=True):
            if type(b) is Shadow:
                if self.small.get(b) is not a:
                    return False
            elif type(b) is tuple:
                if type(a) is not tuple or not self.same(a, b):
                    return False
            elif a is not b and (type(a) is Shadow or a != b):
                return False
        return True

    def restrict(self, labels: Ints) -> Ints:
        """The raw labels of the large trace that stay, flat, in order."""
        known = self._restricted.get(id(labels))
        if known is None:
            known = self._restricted[id(labels)] = labels[self.keep[labels]]
        return known

    def equal(self, a: Ints, b: Ints) -> bool:
        """Element by element, are the two one atom of the large network, or both frozen?"""
        if a is b or (id(a), id(b)) in self._equal:
            return True
        if a.shape != b.shape:
            raise ValueError(f"labels of shape {a.shape} cannot meet labels of shape {b.shape}")
        s = self.evidence.solution
        same = s.component[a] == s.component[b]
        if not same.all() and not (same | (s.is_frozen(a) & s.is_frozen(b))).all():
            return False
        self._equal[(id(a), id(b))] = a, b  # which keeps both alive, so that their ids stay theirs
        return True


def _run(small: nn.Module, example: Example, prover: Prover) -> None:
    try:
        forward(small, example, prover)
    except Mismatch:
        return
    except Exception as error:  # noqa: BLE001 - whatever the forward raises is where the two part
        if prover.proof.failure is None:
            prover.note_error(error)
        return
    if len(prover.log.records) < len(prover.reference.records):
        prover.fail("the small network's forward ends early", stop=False)


class Prover(Tracer):
    """A tracer that checks against a reference log as it goes and stops at the first difference."""

    remembers = False

    def __init__(self, cut: Cut, log: Log, names: dict[int, str], proof: Proof, hollow: bool = False) -> None:
        evidence, mine = cut.evidence, Log(log.training, hollow=hollow)
        super().__init__(LabelSpace(), mine, names, evidence.parameters)
        self.cut, self.reference, self.keep, self.solution, self.proof = cut, log, cut.keep, evidence.solution, proof
        self.space.starts, self.space.owners = evidence.space.starts, evidence.space.owners
        self.restrict = cut.restrict
        self.followed: list[Followed] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Where the large op only passed labels on, and the same is asked of what stands for them, so does this one."""
        index = len(self.log.records)
        large = self.reference.records[index] if index < len(self.reference.records) else None
        if large is not None and large.func is func and large.carries:
            _, shadows, arguments = read(args, kwargs or {})
            if self.cut.same(arguments, large.arguments):
                made = [self.cut.stands_for(s) for s in large.made]
                if None not in made:
                    return self._follow(large, func, args, kwargs or {}, any(s.dynamic for s in shadows), made)
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _follow(self, large: OpRecord, func: Any, args: Any, kwargs: Any, dynamic: bool, made: list[Any]) -> Any:
        out = self.run(func, args, kwargs, dynamic)
        outs = flat_tensors(out)
        for t, size, shadow in zip(outs, large.shapes, made, strict=True):
            wanted = list(size)
            for axes, labels in shadow.fields:
                for axis, n in zip(axes, labels.shape, strict=True):
                    wanted[axis] = n
            if t.shape != tuple(wanted):
                self.fail(f"its output has shape {tuple(t.shape)} where only channels may differ from {size}")
        self.log.records.append(large)
        mark(outs, tuple(made), dynamic and registry.known(func).mutable)
        return out

    # ------------------------------------------------------------------ what rules ask for
    def unify(self, a: Ints, b: Ints) -> None:
        if not self.cut.equal(a, b):
            self.fail("channels meet that did not meet in the large network")

    def freeze(self, labels: Ints, reason: str) -> None:
        still = self.solution.is_frozen(labels)
        if not still.all():
            self.fail(reason, fixed=labels[~still])

    def mark_inexact(self, labels: Ints, reason: str) -> None:
        return

    def fresh(self, n: int, record: OpRecord) -> Ints:
        known = self._expected().fresh
        k = len(record.fresh)
        labels = self.restrict(known[k]) if k < len(known) else np.zeros(0, np.int64)
        if labels.size != n:
            self.fail(f"makes {n} positions where {labels.size} are needed")
        record.fresh += (labels,)
        return labels

    def role(self, owner: tuple[str, int], role: str) -> None:
        return

    def choose_blocks(self, record: OpRecord, inside: int, whole: int) -> str:
        return self._expected().blocks or "inside"

    def expected_axes(self, output: int) -> tuple[tuple[int, ...], ...] | None:
        outputs = self._expected().outputs
        return tuple(f.axes for f in outputs[output]) if output < len(outputs) else None

    def expected_variant(self) -> str:
        return self._expected().variant

    def rule_failed(self, call: Call, error: Exception) -> None:
        if not self._expected().denied:
            self.fail(f"the rule of {call.name} cannot follow ({error})")
        super().rule_failed(call, error)

    # ------------------------------------------------------------------ the comparison
    def _expected(self) -> OpRecord:
        index = len(self.log.records)
        if index >= len(self.reference.records):
            self.fail("the small network's forward runs more ops")
        return self.reference.records[index]

    def finish(self, record: OpRecord) -> tuple[Shadow, ...]:
        large = self._expected()
        if large.name != record.name:
            self.fail(f"runs {record.name} where the large network ran {large.name}")
        if len(large.outputs) != len(record.outputs):
            self.fail("makes another number of tensors")
        for k, fields in enumerate(large.outputs):
            self._compare_output(k, large, record)
            if large.moves and fields:
                self._compare_moves(k, large, record)
        if large.scalars != record.scalars or large.values != record.values or large.scale != record.scale:
            self._width_as_value(large, record)
        self.log.records.append(record)
        return tuple([self.cut.meet(a, b) for a, b in zip(large.made, record.made, strict=True)])

    def _compare_output(self, k: int, large: OpRecord, small: OpRecord) -> None:
        a, b = large.outputs[k], small.outputs[k]
        if [x.axes for x in a] != [y.axes for y in b]:
            self.fail("channels lie along other axes")
        shape, size = small.shapes[k], large.shapes[k]
        if shape != size:
            labelled = {axis for f in a for axis in f.axes}
            if len(shape) != len(size) or any(shape[i] != size[i] for i in range(len(size)) if i not in labelled):
                self.fail(f"its output has shape {shape} where only channels may differ from {size}")
        for x, y in zip(a, b, strict=True):
            want = self.restrict(x.labels)
            if want is not y.labels and not np.array_equal(want, y.labels.ravel()):
                self.fail("other channels arrive than in the large network")
            if x.labels.ndim > 1 and not self._same_rows(x.labels, y.labels.shape):
                self.fail("channels are regrouped across the blocks of the large network")

    def _same_rows(self, labels: Ints, shape: tuple[int, ...]) -> bool:
        """Does every block (all axes but the last) of the small field come from one block of the large one?"""
        for axis, place in enumerate(np.nonzero(self.keep[labels])[:-1]):
            rows = np.moveaxis(place.reshape(shape), axis, 0).reshape(shape[axis], -1)
            if rows.size and (rows != rows[:, :1]).any():
                return False
        return True

    def _compare_moves(self, k: int, large: OpRecord, small: OpRecord) -> None:
        for (ids, sources), (mine, _), f in zip(large.moves[k], small.moves[k], large.outputs[k], strict=True):
            want = ids[self.keep[f.labels]]
            stays = [np.flatnonzero(self.keep[s.ravel()]) for s in sources]
            flat = mine.ravel()
            if len(stays) == 1:
                got = stays[0][flat]
            else:
                offsets = np.cumsum([0, *(s.size for s in stays)])
                source = flat >> 40
                got = np.concatenate(stays)[offsets[source] + (flat & POSITION)] + (source << 40)
            if not np.array_equal(want, got):
                self.fail("elements come from other places than in the large network")

    def _width_as_value(self, large: OpRecord, small: OpRecord) -> None:
        removed = self._seen(large)
        if not removed.size:  # a number made from a width and used later: anything removed may be behind it
            removed = np.flatnonzero(~self.keep)
        why = Inexact("a width is used as a value", self.source(large.name))
        factor = missing_factor(large, small)
        if factor is None:
            self.proof.inexact.append((removed, why))
        else:
            self.followed.append(Followed(self.reference, len(self.log.records), factor, removed, why))

    def _seen(self, record: OpRecord | None) -> Ints:
        """The removed labels among those that an op touches."""
        if record is None:
            return np.zeros(0, np.int64)
        arrays = [f.labels.ravel() for s in record.inputs for f in s.fields]
        arrays += [f.labels.ravel() for fields in record.outputs for f in fields] + list(record.fresh)
        labels = np.unique(np.concatenate([np.zeros(0, np.int64), *arrays]))
        return labels[~self.keep[labels]]

    # ------------------------------------------------------------------ the end of it
    def fail(self, reason: str, stop: bool = True, fixed: Ints | None = None) -> None:
        """Note the first difference and stop the forward."""
        index = len(self.log.records)
        record = self.reference.records[index] if index < len(self.reference.records) else None
        source = self.source(record.name if record else "")
        modules = _modules(self.names)
        self.proof.failure = Failure(self.reference, index, reason, source, modules, self._seen(record), fixed)
        if stop:
            raise Mismatch(reason)

    def note_error(self, error: Exception) -> None:
        """The small forward raised: the op that the large one ran at this point is where they part."""
        index = len(self.log.records)
        record = self.reference.records[index] if index < len(self.reference.records) else None
        traceback = error.__traceback__
        while traceback is not None and traceback.tb_next is not None:
            traceback = traceback.tb_next
        frame = traceback.tb_frame if traceback else None
        source = find_source(self.names, record.name if record else "", frame)
        said = (str(error).splitlines() or [""])[0][:160]
        reason = f"the small network's forward raises {type(error).__name__}: {said}"
        modules = _modules(self.names, frame)
        self.proof.failure = Failure(self.reference, index, reason, source, modules, self._seen(record))


def _modules(names: Mapping[int, str], frame: Any = None) -> tuple[str, ...]:
    """Paths of the modules whose forwards are running, innermost first."""
    import sys

    frame = frame or sys._getframe(1)
    found: dict[str, None] = {}
    while frame is not None:
        if "self" in frame.f_code.co_varnames:
            owner = frame.f_locals.get("self")
            if isinstance(owner, nn.Module) and id(owner) in names:
                found[names[id(owner)]] = None
        frame = frame.f_back
    return tuple(found)
