"""Exact MACs and parameters as a function of the kept atoms. No model is built, no tensor is touched."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from torchbonsai.cost.extents import DistinctExtents
from torchbonsai.graph.channel_graph import Bools, ChannelGraph


@dataclass(frozen=True)
class Cost:
    """macs: of one eval forward on the example inputs as given. params: of the whole network, tied ones once.

    channels: prunable channels (atoms) that are kept.
    """

    macs: int
    params: int
    channels: int


class CostModel:
    """`ChannelGraph` -> `Cost` of any selection of its atoms.

    A contraction costs its constant times the kept positions of each of its extents; a parameter has as many entries
    as the product of its kept positions over its axes. The same extent occurs in many of both, so the distinct ones
    are counted once a call, with one sparse product, and the rest is Python's own (exact) integers.
    """

    def __init__(self, graph: ChannelGraph) -> None:
        self.graph = graph
        self._extents = DistinctExtents(graph.n_atoms)
        self._products = [(p.constant, [self._extents.number(e) for e in p.extents]) for p in graph.products]
        self._params = {name: self._factors(name) for name in _distinct_parameters(graph)}
        self._counts, self._fixed = self._extents.compiled()
        self.dense = self.of(np.ones(graph.n_atoms, dtype=bool))

    def of(self, kept: Bools) -> Cost:
        """The cost when exactly the atoms with `kept[atom]` stay. kept: (n_atoms,) bool."""
        counts = self._kept_positions(kept)
        macs = sum(constant * prod(counts[e] for e in extents) for constant, extents in self._products)
        params = sum(constant * prod(counts[e] for e in extents) for constant, extents in self._params.values())
        return Cost(macs=macs, params=params, channels=int(np.count_nonzero(kept)))

    def macs_by_product(self, kept: Bools) -> list[int]:
        """MACs of each of `graph.products`, in their order."""
        counts = self._kept_positions(kept)
        return [constant * prod(counts[e] for e in extents) for constant, extents in self._products]

    def params_by_name(self, kept: Bools) -> dict[str, int]:
        """Entries of each parameter, tied names once (under the first of them)."""
        counts = self._kept_positions(kept)
        return {name: constant * prod(counts[e] for e in extents) for name, (constant, extents) in self._params.items()}

    def _kept_positions(self, kept: Bools) -> list[int]:
        kept = np.asarray(kept)
        if kept.shape != (self.graph.n_atoms,) or kept.dtype != np.bool_:
            raise ValueError(f"kept must be bool of shape ({self.graph.n_atoms},), got {kept.dtype} {kept.shape}")
        return (self._counts @ kept.astype(np.int64) + self._fixed).tolist()

    def _factors(self, name: str) -> tuple[int, list[int]]:
        """(product of the axes that never narrow, extents of those that may)."""
        axes = self.graph.axes.get(name, {})
        constant = prod(size for axis, size in enumerate(self.graph.shapes[name]) if axis not in axes)
        return constant, [self._extents.number(axes[axis]) for axis in sorted(axes)]


def cost_of(graph: ChannelGraph, kept: Bools) -> Cost:
    """The cost of one selection; for many selections of one graph make a `CostModel` once."""
    return CostModel(graph).of(kept)


def _distinct_parameters(graph: ChannelGraph) -> list[str]:
    return [name for name in graph.shapes if name in graph.parameters and graph.aliases.get(name, name) == name]
