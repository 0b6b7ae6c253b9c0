"""Limits on what a `Cost` does not hold: memory and time, whose models are made by whoever has the network at hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import lcm
from typing import Protocol

import numpy as np

from torchbonsai.cost.macs import CostModel
from torchbonsai.cost.predict import LatencyModel
from torchbonsai.graph.channel_graph import Bools, Ints


class Measure(Protocol):
    """Something that costs, as a function of what is kept; it never rises as more leaves."""

    @property
    def dense(self) -> float:
        """Of the whole network."""

    def of(self, kept: Bools) -> float:
        """When exactly the atoms with `kept[atom]` stay. kept: (n_atoms,) bool."""


@dataclass(frozen=True)
class Measures:
    """models: name -> what is measured. limits: name -> the largest value allowed; the same names, or fewer.

    clock: the model of the latency on a device; then widths are what it likes, and a global ranking is by score lost
    for time saved.
    """

    models: Mapping[str, Measure] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    clock: LatencyModel | None = None

    def multiples(self, sizes: Ints, round_to: Ints) -> Ints:
        """(n_groups,) multiples for widths: the given ones, and the device's as far as a group is wide enough."""
        if self.clock is None:
            return round_to
        liked = [self.clock.table.multiple_for(n) for n in sizes.tolist()]
        return np.array([lcm(m, a) for m, a in zip(round_to.tolist(), liked, strict=True)], dtype=np.int64)


@dataclass(frozen=True)
class Meter:
    """Every amount that has a limit, of any selection, by name."""

    cost: CostModel
    limits: Mapping[str, float]
    models: Mapping[str, Measure]

    def of(self, kept: Bools) -> dict[str, float]:
        """name -> value, for the names that have a limit."""
        cost = self.cost.of(kept) if any(name not in self.models for name in self.limits) else None
        return {
            name: self.models[name].of(kept) if name in self.models else getattr(cost, name) for name in self.limits
        }

    def dense(self, name: str) -> float:
        """Of the whole network."""
        value: float = self.models[name].dense if name in self.models else getattr(self.cost.dense, name)
        return value

    def fits(self, kept: Bools) -> bool:
        """Are all limits kept?"""
        if np.count_nonzero(kept) > self.limits.get("channels", kept.size):
            return False  # the cheapest question
        only_channels = self.limits.keys() <= {"channels"}
        return only_channels or all(value <= self.limits[name] for name, value in self.of(kept).items())
