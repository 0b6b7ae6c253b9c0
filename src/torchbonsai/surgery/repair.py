"""Repairs by guess: ints, or lists of ints, on the modules that were running, rewritten to the sizes that an op needs.

One repair is carried over to every op that the same line runs in another module of the class, and to the next
selection: there the sizes are other ones, but the attributes are the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations, permutations
from typing import Any

import numpy as np
from torch import nn

from torchbonsai.graph.channel_graph import Bools, Ints, Source
from torchbonsai.graph.locate import locate
from torchbonsai.graph.prove import Failure
from torchbonsai.graph.record import Log, OpRecord
from torchbonsai.surgery.plan import AttributeEdit

Edits = tuple[AttributeEdit, ...]
_MOST_DOUBTS = 2
_MOST_ALIKE = 4
"""Attributes of one value that are rewritten together, and the new sizes that are shared out among them."""
_MOST_SIZES = 3
"""A size that becomes more sizes than that at one op is not one number of the code."""


@dataclass(frozen=True)
class Repair:
    """The `rank`-th guess at `attributes` of module `path`, for op number `index` of `log`."""

    log: Log
    index: int
    path: str
    attributes: frozenset[str]
    rank: int


@dataclass
class Repairs:
    """What is known of one model's baked-in widths. known: repairs that helped, in the order of discovery.

    doubts: how often what one selection taught of a module did not hold for another.
    """

    model: nn.Module
    example_inputs: Any
    known: list[Repair] = field(default_factory=list)
    doubts: Counter[str] = field(default_factory=Counter)
    _sources: dict[int, list[Source]] = field(default_factory=dict)

    def guesses(self, small: nn.Module, failure: Failure, keep: Bools) -> Iterator[tuple[Repair, Edits]]:
        """Edits of modules whose forwards were running, innermost first, that would change something in `small`."""
        for path in failure.modules:
            for repair, edits in self._guesses_at(failure.log, failure.index, path, keep):
                if _changes(small, edits):
                    yield repair, edits

    def again(self, keep: Bools) -> Edits:
        """All that is known, for another selection."""
        return tuple(e for repair in self.trusted() for e in self._edits(repair, keep))

    def trusted(self) -> list[Repair]:
        """What is carried over to another selection."""
        return [r for r in self.known if self.doubts[r.path] < _MOST_DOUBTS]

    def forget(self, before: list[Repair], paths: tuple[str, ...]) -> bool:
        """Forget what earlier selections taught of the modules, not what this one did; was there anything?"""
        stale = {r for r in before if r.path in paths}
        self.doubts.update({r.path for r in stale})
        self.known = [r for r in self.known if r not in stale]
        return bool(stale)

    def siblings(self, repair: Repair, small: nn.Module, keep: Bools) -> tuple[list[Repair], Edits]:
        """The same repair wherever the same line runs in another module of the same class."""
        kind = type(self.model.get_submodule(repair.path))
        found: dict[str, Repair] = {}
        for index in self.same_line(repair.log, repair.index):
            path: str | None = self._sources[id(repair.log)][index].module
            while path and type(self.model.get_submodule(path)) is not kind:
                path = path.rpartition(".")[0]
            if path and path != repair.path:
                found.setdefault(path, Repair(repair.log, index, path, repair.attributes, repair.rank))
        edits = {path: self._edits(other, keep) for path, other in found.items()}
        useful = [path for path in found if _changes(small, edits[path])]
        return [found[path] for path in useful], tuple(e for path in useful for e in edits[path])

    def same_line(self, log: Log, index: int) -> list[int]:
        """Numbers of the other ops of the same name that the same line of code runs."""
        if id(log) not in self._sources:
            self._sources[id(log)] = locate(self.model, self.example_inputs, log)
        sources = self._sources[id(log)]
        if index >= len(sources):
            return []
        at = sources[index]
        alike = (k for k, s in enumerate(sources) if s.line == at.line and s.file == at.file and s.op == at.op)
        return [k for k in alike if k != index]

    def _guesses_at(self, log: Log, index: int, path: str, keep: Bools) -> Iterator[tuple[Repair, Edits]]:
        record = log.records[index] if index < len(log.records) else None
        ranks: Counter[frozenset[str]] = Counter()
        for edits in _on_module(path, self.model.get_submodule(path), size_changes(record, keep), _parts(record, keep)):
            attributes = frozenset(e.attribute for e in edits)
            yield Repair(log, index, path, attributes, ranks[attributes]), edits
            ranks[attributes] += 1

    def _edits(self, repair: Repair, keep: Bools) -> Edits:
        """A repair under another selection, or at another op; the last of its kind where there are fewer."""
        edits: Edits = ()
        for other, guess in self._guesses_at(repair.log, repair.index, repair.path, keep):
            if other.attributes == repair.attributes:
                edits = guess
                if other.rank == repair.rank:
                    break
        return edits


def _changes(small: nn.Module, edits: Edits) -> bool:
    return any(_plain(getattr(small.get_submodule(e.module), e.attribute, None)) != e.new for e in edits)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def size_changes(record: OpRecord | None, keep: Bools) -> dict[int, list[int]]:
    """Old size -> the sizes that it must become at the op, in the order in which they occur."""
    changes: dict[int, list[int]] = {}

    def note(old: int, new: int) -> None:
        if old != new and new not in changes.setdefault(old, []):
            changes[old].append(new)

    if record is None:
        return changes
    for labels in record.fresh:
        note(labels.size, int(keep[labels].sum()))
    fields = [f for out in record.outputs for f in out] + [f for s in record.inputs for f in s.fields]
    for f in fields:
        stays = keep[f.labels]
        if stays.ndim == 1:
            note(stays.size, int(stays.sum()))
            _note_starts(f.labels, keep, record.inputs, note)
            continue
        for axis in range(stays.ndim):
            others = tuple(k for k in range(stays.ndim) if k != axis)
            note(stays.shape[axis], int(stays.any(axis=others).sum()))
            counts = stays.sum(axis=axis).ravel()
            if (counts == counts[0]).all():
                note(stays.shape[axis], int(counts[0]))
    return {old: new for old, new in changes.items() if new}


def _parts(record: OpRecord | None, keep: Bools) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The sizes of the parts that the op makes of one axis, before and after."""
    fields = [out[0].labels for out in record.outputs if len(out) == 1] if record is not None else []
    return tuple(f.size for f in fields), tuple(int(keep[f].sum()) for f in fields)


def _note_starts(labels: Ints, keep: Bools, inputs: Any, note: Any) -> None:
    """A slice's start and stop: how many positions stay before them."""
    for shadow in inputs:
        for f in shadow.fields:
            if f.labels.ndim != 1 or f.labels.size <= labels.size:
                continue
            at = np.flatnonzero(f.labels == labels[0])
            if at.size:
                stays = np.cumsum(keep[f.labels])
                for place in (int(at[0]), int(at[0]) + labels.size):
                    if 0 < place < f.labels.size:
                        note(place, int(stays[place - 1]))


def _on_module(
    path: str, module: nn.Module, changes: dict[int, list[int]], parts: tuple[tuple[int, ...], tuple[int, ...]]
) -> Iterator[Edits]:
    ints = {k: v for k, v in vars(module).items() if isinstance(v, int) and not isinstance(v, bool) and v in changes}
    lists = {
        k: v
        for k, v in vars(module).items()
        if isinstance(v, list | tuple) and v and all(isinstance(x, int) for x in v) and set(v) & set(changes)
    }
    for name, sizes in lists.items():
        if tuple(sizes) == parts[0] and min(parts[1]):
            yield (AttributeEdit(path, name, *parts),)
        for rewritten in _rewritten(sizes, changes):
            yield (AttributeEdit(path, name, tuple(sizes), rewritten),)
    yield from _assignments(path, ints, changes)
    for name, value in ints.items():
        for new in changes[value][:_MOST_SIZES]:
            yield (AttributeEdit(path, name, value, new),)


def _assignments(path: str, ints: dict[str, int], changes: dict[int, list[int]]) -> Iterator[tuple[AttributeEdit, ...]]:
    """All matching attributes at once, then those of one value, then some of these, for a stride may be as large as a
    width by chance: one new size for them all, or new sizes in every order."""
    if len(ints) < 2:
        return
    yield tuple(AttributeEdit(path, k, v, changes[v][0]) for k, v in ints.items())
    for old, new in changes.items():
        names = [k for k, v in ints.items() if v == old]
        counts = range(len(names), 1, -1) if len(names) <= _MOST_ALIKE else ()
        for some in (some for count in counts for some in combinations(names, count)):
            if len(some) < len(ints):
                yield tuple(AttributeEdit(path, k, old, new[0]) for k in some)
            for order in permutations(new[:_MOST_ALIKE], len(some)) if len(new) > 1 else ():
                yield tuple(AttributeEdit(path, k, old, n) for k, n in zip(some, order, strict=True))


def _rewritten(value: Any, changes: dict[int, list[int]]) -> Iterator[tuple[int, ...]]:
    """A list of sizes with its members replaced: in order of occurrence, then all alike."""
    queues = {old: list(new) for old, new in changes.items()}
    yield tuple((queues[x].pop(0) if len(queues[x]) > 1 else queues[x][0]) if x in queues else x for x in value)
    yield tuple(changes[x][0] if x in changes else x for x in value)
