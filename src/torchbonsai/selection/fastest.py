"""The order in which channels leave where a device's clock is known: least score lost for the time saved.

Layers stand in series, and a narrow one resists as a thin wire does: by one over the share of its group's scores that
is kept, once for every layer that makes the group, and the more the higher the group scores on average as the criterion
normalises (by the mean: all alike). A unit leaves when the resistance that it adds, over the
milliseconds that it saves at the widths of the moment, is the least of all. So a layer that is slow for its MACs gets
narrower before one that is quick, and none is emptied for it.
The trade of importance for measured latency in units of the width that a device likes is that of HALP (Shen et al.,
Structural Pruning via Latency-Saliency Knapsack, NeurIPS 2022, section 3.2-3.3), solved greedily.
"""

from __future__ import annotations

import heapq
import math

import numpy as np

from torchbonsai.cost.predict import Marginal
from torchbonsai.graph.channel_graph import ChannelGraph, Ints
from torchbonsai.selection.ladder import Bounds, Floats, Ladder, Ranking, unit_starts

LOOKAHEAD = 4
"""Units of a group that are looked at together: one alone may save nothing, where time goes in steps."""
_LEAST_WEIGHT = 1e-3


def fastest_ladder(graph: ChannelGraph, bounds: Bounds, ranking: Ranking, scores: Floats, times: Marginal) -> Ladder:
    """A rung for each unit that leaves. scores: (n_atoms,), higher = keep, made comparable across groups."""
    times.start(bounds.most)
    groups = [_Group(graph, bounds, ranking, scores, g) for g in range(len(graph.groups))]
    queue = [(_price(groups[g], g, times)[0], g) for g in range(len(groups)) if groups[g].left]
    heapq.heapify(queue)
    steps: list[tuple[int, int]] = []
    while queue:
        _, g = heapq.heappop(queue)
        price, units = _price(groups[g], g, times)
        if queue and price > queue[0][0]:  # others have left since: what a unit saves only falls
            heapq.heappush(queue, (price, g))
            continue
        channels = groups[g].take(units)
        times.narrow(g, sum(channels))
        steps += [(g, amount) for amount in channels]
        if groups[g].left:
            heapq.heappush(queue, (_price(groups[g], g, times)[0], g))
    return _ladder(steps, bounds)


class _Group:
    """The units of a group, the worst first, and its resistance before each."""

    def __init__(self, graph: ChannelGraph, bounds: Bounds, ranking: Ranking, scores: Floats, number: int) -> None:
        group = graph.groups[number]
        inside = slice(group.offset, group.offset + group.size)
        own = np.empty(group.size)
        own[ranking.rank[inside]] = scores[inside]  # the best first
        kept = np.concatenate([[0.0], np.cumsum(_positive(own))])
        most, least = int(bounds.most[number]), int(bounds.least[number])
        starts = unit_starts(most, least, int(bounds.round_to[number]))
        makers = max(len({b.name for b in group.bound("produces")}), 1)
        self.weight = makers * max(float(np.abs(own).mean()) / (float(np.abs(scores).mean()) or 1.0), _LEAST_WEIGHT)
        self._gone = starts.tolist()
        self._resists = (kept[-1] / kept[most - starts]).tolist()
        self._at = 0

    @property
    def left(self) -> int:
        """How many units can still leave."""
        return len(self._gone) - 1 - self._at

    def offer(self, units: int) -> tuple[float, int]:
        """(resistance added, channels gone) if so many more units leave."""
        a, b = self._at, self._at + units
        return self.weight * (self._resists[b] - self._resists[a]), self._gone[b] - self._gone[a]

    def take(self, units: int) -> list[int]:
        """They leave; returns the channels of each."""
        a, self._at = self._at, self._at + units
        return [self._gone[i + 1] - self._gone[i] for i in range(a, self._at)]


def _price(group: _Group, number: int, times: Marginal) -> tuple[float, int]:
    """(resistance added a millisecond, units) of the best offer; infinite where nothing is saved."""
    best = (math.inf, 1)
    for units in range(1, min(group.left, LOOKAHEAD) + 1):
        added, channels = group.offer(units)
        saved = times.saved(number, channels)
        if saved > 0:
            best = min(best, (added / saved, units))
    return best


def _positive(scores: Floats) -> Floats:
    """Scores above zero, so that shares of them mean something: moved up where some are negative, then off zero."""
    moved = scores - min(float(scores.min()), 0.0)
    mean = float(moved.mean())
    return moved + (1e-3 * mean if mean > 0 else 1.0)


def _ladder(steps: list[tuple[int, int]], bounds: Bounds) -> Ladder:
    group = np.array([g for g, _ in steps], dtype=np.int64)
    amount = np.array([n for _, n in steps], dtype=np.int64)

    def widths(rung: int) -> Ints:
        gone = np.bincount(group[:rung], weights=amount[:rung], minlength=len(bounds.most))
        return bounds.most - gone.astype(np.int64)

    return Ladder(len(steps) + 1, widths)
