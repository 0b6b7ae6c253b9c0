"""The order in which channels leave, as a ladder of widths that only get narrower, and the first rung that fits."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from torchbonsai.graph.channel_graph import Bools, ChannelGraph, Ints
from torchbonsai.selection.budget import nearest

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ranking:
    """position: (n_atoms,) when an atom leaves in the global order, 0 first; rank: (n_atoms,) in its group, 0 best."""

    position: Ints
    rank: Ints
    group_of_atom: Ints

    def kept(self, widths: Ints) -> Bools:
        """(n_atoms,) bool: the best `widths[g]` atoms of every group g."""
        return self.rank < widths[self.group_of_atom]


@dataclass(frozen=True, eq=False)
class Bounds:
    """(n_groups,) each: how wide a group may be at most and at least; equal where a width was given.

    `most` is a multiple of `round_to`, the dense count, or given.
    """

    most: Ints
    least: Ints
    round_to: Ints
    min_channels: Ints


@dataclass(frozen=True, eq=False)
class Ladder:
    """`widths(0)` is the widest choice, `widths(length - 1)` the narrowest; no group ever gets wider again."""

    length: int
    widths: Callable[[int], Ints]

    def first(self, fits: Callable[[Ints], bool]) -> Ints | None:
        """The widest rung that fits, or None. Cost only falls down the ladder, so bisection is exact."""
        if not fits(self.widths(self.length - 1)):
            return None
        low, high = 0, self.length - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(self.widths(middle)) else (middle + 1, high)
        return self.widths(low)


def rank(graph: ChannelGraph, scores: Floats, across: Floats) -> Ranking:
    """Order atoms by (across, group, channel). scores, across: (n_atoms,), higher = keep.

    across: the scores as they are compared between groups. Within a group the given scores decide, so that a rounded
    quotient cannot swap two of them.
    """
    groups, atoms = graph.group_of_atom, np.arange(graph.n_atoms)
    # atoms are in the order of their groups already, and both sorts leave equal ones as they are
    leaving = np.argsort(scores, kind="stable") if across is scores else np.lexsort((scores, groups, across))
    position = np.empty_like(atoms)
    position[leaving] = atoms
    last_of_group = np.cumsum([g.size for g in graph.groups]) - 1
    place = np.empty_like(atoms)
    place[leaving[np.argsort(groups[leaving], kind="stable")]] = atoms
    return Ranking(position, last_of_group[groups] - place, groups)


def uniform_ladder(sizes: Ints, bounds: Bounds, most: Fraction) -> Ladder:
    """One share s of every group, from `most` down; a rung for each s at which some width changes."""
    free = sorted({int(n) for n, widest, least in zip(sizes, bounds.most, bounds.least, strict=True) if widest > least})
    numerators = np.concatenate([np.arange(2 * n - 1, 0, -2) for n in free] or [np.zeros(0, dtype=np.int64)])
    denominators = np.repeat([2 * n for n in free], free).astype(np.int64)
    # Two such fractions that differ, differ by more than float64 can blur, and equal ones give the same quotient.
    _, first = np.unique(numerators / np.maximum(denominators, 1), return_index=True)
    falling = first[::-1]

    def step(k: int) -> Fraction:
        return Fraction(int(numerators[falling[k]]), int(denominators[falling[k]]))

    below = bisect_left(range(len(falling)), True, key=lambda k: step(k) < most)

    def widths(rung: int) -> Ints:
        last = len(falling) - below + 1
        amount = most if rung == 0 else Fraction(0) if rung == last else step(below + rung - 1)
        return np.array([_width(amount, n, g, bounds) for g, n in _each(sizes)])

    return Ladder(len(falling) - below + 2, widths)


def global_ladder(sizes: Ints, bounds: Bounds, ranking: Ranking) -> Ladder:
    """One ranking of all atoms; a rung for each unit (one channel, or what `round_to` makes of it) that leaves."""
    groups, amounts, when = [], [], []
    by_group = np.lexsort((ranking.position, ranking.group_of_atom))
    for g, stop in enumerate(np.cumsum(sizes)):
        starts = unit_starts(int(bounds.most[g]), int(bounds.least[g]), int(bounds.round_to[g]))
        leaving = by_group[stop - bounds.most[g] : stop]  # the group's atoms that may stay, the worst first
        groups.append(np.full(max(len(starts) - 1, 0), g))
        amounts.append(np.diff(starts))
        # A unit is kept as long as its worst channel is: counts are rounded down.
        when.append(ranking.position[leaving[starts[:-1]]])
    order = np.argsort(np.concatenate(when))
    group, amount = np.concatenate(groups)[order], np.concatenate(amounts)[order]

    def widths(rung: int) -> Ints:
        gone = np.bincount(group[:rung], weights=amount[:rung], minlength=len(sizes))
        return bounds.most - gone.astype(np.int64)

    return Ladder(len(order) + 1, widths)


def floors(sizes: Ints, min_channels: Ints, round_to: Ints) -> Ints:
    """(n_groups,) the first multiple of `round_to` that is at least `min_channels`, or the dense count if smaller."""
    return np.minimum(sizes, -(-min_channels // round_to) * round_to)


def unit_starts(most: int, least: int, round_to: int) -> Ints:
    """How many channels of a group have left before each unit, and after the last: 0, …, most - least."""
    if most == least:
        return np.zeros(1, dtype=np.int64)
    first = most % round_to or round_to
    return np.concatenate([[0], np.arange(first, most - least + 1, round_to)]).astype(np.int64)


def _width(amount: Fraction, size: int, group: int, bounds: Bounds) -> int:
    """max(min_channels, ⌊s·n + ½⌋), rounded down to a multiple but not below the floor; a given width as it is."""
    most, least = int(bounds.most[group]), int(bounds.least[group])
    if most == least:
        return most
    width = max(int(bounds.min_channels[group]), nearest(amount, size))
    multiple = int(bounds.round_to[group])
    return most if width >= size else min(most, max(least, width // multiple * multiple))


def _each(sizes: Ints) -> list[tuple[int, int]]:
    return list(enumerate(sizes.tolist()))
