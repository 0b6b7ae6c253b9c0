"""How many positions of an axis are kept: the distinct axes of a graph, counted at once."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from torchbonsai.graph.channel_graph import FROZEN, Bools, Ints

Counts = npt.NDArray[np.int64]
"""(number of distinct extents,) how many positions of each are kept."""


class DistinctExtents:
    """Distinct extents, numbered as they come."""

    def __init__(self, n_atoms: int) -> None:
        self.n_atoms = n_atoms
        self.numbers: dict[bytes, int] = {}
        self.arrays: list[Ints] = []

    def number(self, atoms: Ints) -> int:
        atoms = np.ascontiguousarray(atoms, dtype=np.int64)
        key = atoms.tobytes()
        if key not in self.numbers:
            self.numbers[key] = len(self.arrays)
            self.arrays.append(atoms)
        return self.numbers[key]

    def compiled(self) -> tuple[csr_matrix, Counts]:
        """(extents x atoms) how often each extent holds each atom, and (extents,) its positions that always stay."""
        rows = np.repeat(np.arange(len(self.arrays)), [len(a) for a in self.arrays])
        atoms = np.concatenate(self.arrays) if self.arrays else np.zeros(0, dtype=np.int64)
        free = atoms != FROZEN
        counts = csr_matrix(
            (np.ones(int(free.sum()), dtype=np.int64), (rows[free], atoms[free])),
            shape=(len(self.arrays), self.n_atoms),
        )
        return counts, np.bincount(rows[~free], minlength=len(self.arrays)).astype(np.int64)


class Terms:
    """Numbers that are each a constant times the kept positions of some axes: bytes of tensors, elements, MACs."""

    def __init__(self, n_atoms: int) -> None:
        self._extents = DistinctExtents(n_atoms)
        self._terms: list[tuple[int, list[int]]] = []
        self._compiled: tuple[csr_matrix, Counts] | None = None

    def add(self, constant: int, extents: Iterable[Ints]) -> None:
        """One more number; extents: atoms along each of its axes, FROZEN where a position always stays."""
        self._terms.append((constant, [self._extents.number(e) for e in extents]))
        self._compiled = None

    def of(self, kept: Bools) -> list[int]:
        """Every number, in the order of `add`, when exactly the atoms with `kept[atom]` stay. Exact integers."""
        if self._compiled is None:
            self._compiled = self._extents.compiled()
        counts, fixed = self._compiled
        positions = (counts @ np.asarray(kept, dtype=np.int64) + fixed).tolist()
        return [constant * prod(positions[e] for e in extents) for constant, extents in self._terms]
