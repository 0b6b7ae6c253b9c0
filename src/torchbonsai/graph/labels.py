"""Channel labels: integers that name atoms, the fields they lie in, and the equalities and freezes found on the way.

Label 0 is frozen. Equalities are collected as edges during the pass and solved once, with connected components.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from torchbonsai.graph.channel_graph import Ints, Source


class Field(NamedTuple):
    """Labels of a tensor along `axes` (ascending); labels.shape is the tensor's shape along them."""

    axes: tuple[int, ...]
    labels: Ints


Fields = tuple[Field, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Shadow:
    """What the tracer knows of one tensor. Told apart by identity: equal ones of one label space are one object.

    dynamic: it depends on a model input. leaf: the parameter or buffer of which it is a pure rearrangement.
    places: labels of the channels whose positions are its values (an argmax): nothing may leave once it is used.
    """

    fields: Fields = ()
    dynamic: bool = False
    leaf: str | None = None
    places: tuple[Ints, ...] = ()


UNKNOWN = Shadow()
"""Of a tensor that no op under the tracer made."""
INPUT = Shadow((), True)
"""Of the model's inputs."""


@dataclass(frozen=True, eq=False)
class Event:
    """Labels that are frozen (or, in another list, inexact), and why."""

    labels: Ints
    reason: str
    source: Source | None


@dataclass
class LabelSpace:
    """All labels of one model: who owns them, which are equal, which are frozen, which are inexact."""

    count: int = 1
    starts: list[int] = field(default_factory=list)
    owners: list[tuple[str, int]] = field(default_factory=list)
    edges: list[tuple[Ints, Ints]] = field(default_factory=list)
    frozen: list[Event] = field(default_factory=list)
    inexact: list[Event] = field(default_factory=list)
    _seen: set[tuple[int, int]] = field(default_factory=set)
    _made: dict[int, tuple[Ints, tuple[str, int]]] = field(default_factory=dict)

    def fresh(self, n: int, owner: tuple[str, int] | None = None) -> Ints:
        """n new labels; `owner`: the (parameter, axis) that they number."""
        labels = np.arange(self.count, self.count + n, dtype=np.int64)
        self.starts.append(self.count)
        self.owners.append(owner or ("", -1))
        if owner is not None:
            self._made[id(labels)] = labels, owner
        self.count += n
        return labels

    def mark(self) -> tuple[int, int, int]:
        """A point to which `reset` goes back."""
        return len(self.edges), len(self.frozen), len(self.inexact)

    def reset(self, mark: tuple[int, int, int]) -> None:
        """Forget what was found since `mark`; labels made since stay, and mean nothing."""
        edges, frozen, inexact = mark
        del self.edges[edges:], self.frozen[frozen:], self.inexact[inexact:]
        self._seen.clear()

    def owners_of(self, labels: Ints) -> list[tuple[str, int]]:
        """The distinct (parameter, axis) pairs whose labels occur in `labels`."""
        made = self._made.get(id(labels))
        if made is not None:
            return [made[1]]
        flat = labels.ravel()
        if flat.size == 0:
            return []
        low, high = int(flat.min()), int(flat.max())
        first = bisect_right(self.starts, low) - 1
        if first >= 0 and first == bisect_right(self.starts, high) - 1:
            found: Iterable[int] = (first,)
        else:
            found = np.unique(np.searchsorted(self.starts, flat, side="right") - 1)
        return [self.owners[i] for i in found if i >= 0 and self.owners[i][1] >= 0]

    def unify(self, a: Ints, b: Ints) -> None:
        """Element by element, the atoms of `a` and `b` leave together."""
        if a is b or (id(a), id(b)) in self._seen:
            return
        if a.shape != b.shape:
            raise ValueError(f"labels of shape {a.shape} cannot meet labels of shape {b.shape}")
        self._seen.add((id(a), id(b)))
        self.edges.append((a, b))  # keeps both alive, so that their ids stay theirs

    def solve(self) -> Solution:
        """Connected components of the equalities, and which of them an event froze."""
        rows = np.concatenate([np.zeros(0, np.int64), *(a.ravel() for a, _ in self.edges)])
        cols = np.concatenate([np.zeros(0, np.int64), *(b.ravel() for _, b in self.edges)])
        real = (rows != 0) & (cols != 0)  # an edge to label 0 freezes, it does not join what it freezes
        rows_, cols_ = rows[real], cols[real]
        matrix = coo_array((np.ones(rows_.size, np.int8), (rows_, cols_)), shape=(self.count, self.count))
        n, component = connected_components(matrix, directed=False)
        component = component.astype(np.int64)
        why = np.full(n, -1, dtype=np.int64)
        for i in range(len(self.frozen) - 1, -1, -1):
            why[component[self.frozen[i].labels.ravel()]] = i
        touched = component[np.concatenate([rows[cols == 0], cols[rows == 0]])]
        why[touched[why[touched] < 0]] = len(self.frozen)
        why[component[0]] = len(self.frozen)
        return Solution(component, why)


@dataclass(frozen=True, eq=False)
class Solution:
    """component: (labels,) the atom of each label. why: (atoms,) the freezing event's number, -1 where free."""

    component: Ints
    why: Ints

    def is_frozen(self, labels: Ints) -> np.ndarray:
        """Element by element: may the label never be removed?"""
        return (self.why[self.component[labels]] >= 0) | (labels == 0)
