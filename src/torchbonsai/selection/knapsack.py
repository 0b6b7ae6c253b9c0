"""Spending a budget where it buys most: channels leave in the order of score per cost.

A knapsack would want one cost a channel, and there is none: a channel costs what its neighbours' widths make it cost.
So costs are taken at a choice of widths (what the next unit of each group would save there), all channels are ranked by
score per cost, the ranking is cut where the *exact* cost fits, and costs are taken anew at the widths that came out,
until they come out again. Then what still fits and does not lower the sum of scores is put back. Of all rounds, and of
the plain ranking by score, the choice that keeps the largest sum is taken. So it always fits, it is never worse than
scope="global" by that sum, and no unit can be put back without harm; that it is the best of all choices is not
promised. Channels of negative scores come first in every ranking, but as with scope="global" none leaves where the
budget is met already.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from torchbonsai.graph.channel_graph import ChannelGraph, Ints
from torchbonsai.selection.ladder import Bounds, Floats, Ranking, global_ladder, rank
from torchbonsai.selection.measures import Meter

_ROUNDS = 12


@dataclass(eq=False)
class Knapsack:
    """scores: (n_atoms,) as given; values: (n_atoms,) as they are compared between groups."""

    graph: ChannelGraph
    meter: Meter
    bounds: Bounds
    scores: Floats
    values: Floats

    @cached_property
    def ranking(self) -> Ranking:
        """By value alone; within a group every ranking is the same."""
        return rank(self.graph, self.scores, self.values)

    @cached_property
    def _sizes(self) -> Ints:
        return np.array([g.size for g in self.graph.groups], dtype=np.int64)

    def widths(self) -> Ints | None:
        """(n_groups,) the widths that are chosen, or None where the limits cannot be met."""
        found: list[Ints] = []
        prices = np.ones(len(self.graph.groups))
        for _ in range(_ROUNDS):
            chosen = self._cut(prices)
            if chosen is None:
                return None
            if any(np.array_equal(chosen, known) for known in found):
                break
            found.append(chosen)
            prices = self._prices(chosen)
        return max(found, key=self._worth)

    def _cut(self, prices: Floats) -> Ints | None:
        """The ranking by value per price, cut where it fits, and filled up."""
        ranking = self._ranking(prices)
        ladder = global_ladder(self._sizes, self.bounds, ranking)
        widths = ladder.first(self._fits)
        return None if widths is None else self._filled(widths, ranking)

    def _filled(self, widths: Ints, ranking: Ranking) -> Ints:
        """Put back removed units that do no harm, the best-ranked first, as long as one fits."""
        blocked = widths >= self.bounds.most
        while not blocked.all():
            wider = self._wider(widths)
            last = np.where(blocked, -1, self._position(ranking, wider))
            group = int(last.argmax())
            trial = widths.copy()
            trial[group] = wider[group]
            if self._gain(widths, trial) >= 0 and self._fits(trial):
                widths = trial
                blocked[group] = widths[group] >= self.bounds.most[group]
            else:
                blocked[group] = True  # costs only grow from here, and after a harmful unit come worse channels
        return widths

    def _prices(self, widths: Ints) -> Floats:
        """(n_groups,) what a channel costs there, as a share of the limits, summed over them; 0 where nothing."""
        narrower = np.maximum(self.bounds.least, widths - self.bounds.round_to)
        prices = np.zeros(len(widths))
        for group in range(len(widths)):
            low, high = widths.copy(), widths.copy()
            low[group] = narrower[group]
            if low[group] == high[group]:
                high[group] = self._wider(widths)[group]
            if low[group] != high[group]:
                prices[group] = (self._spent(high) - self._spent(low)) / (high[group] - low[group])
        return prices

    def _ranking(self, prices: Floats) -> Ranking:
        """By value per price; what costs nothing leaves last.

        What harms leaves before all else, the sooner the more it costs: by value times price.
        """
        each = prices[self.graph.group_of_atom]
        with np.errstate(divide="ignore", invalid="ignore"):
            density = np.where(each > 0, self.values / each, np.inf)
        return rank(self.graph, self.scores, np.where(self.values < 0, self.values * each, density))

    def _position(self, ranking: Ranking, wider: Ints) -> Ints:
        """(n_groups,) when the worst channel of the next unit of each group left."""
        at = ranking.rank == wider[ranking.group_of_atom] - 1
        position = np.zeros(len(wider), dtype=np.int64)
        position[ranking.group_of_atom[at]] = ranking.position[at]
        return position

    def _wider(self, widths: Ints) -> Ints:
        return np.minimum(self.bounds.most, (widths // self.bounds.round_to + 1) * self.bounds.round_to)

    def _worth(self, widths: Ints) -> float:
        return float(self.values[self.ranking.kept(widths)].sum())

    def _gain(self, widths: Ints, wider: Ints) -> float:
        """What the channels between two choices add to the sum of scores."""
        return float(self.values[self.ranking.kept(wider) & ~self.ranking.kept(widths)].sum())

    def _spent(self, widths: Ints) -> float:
        spent = self.meter.of(self.ranking.kept(widths))
        return float(sum(value / self.meter.limits[name] for name, value in spent.items()))

    def _fits(self, widths: Ints) -> bool:
        return self.meter.fits(self.ranking.kept(widths))
