"""The way to a budget: what a schedule asks for at a step, as shares of the original, said of the network as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from torchbonsai.core.errors import ConfigError, PlanError, message
from torchbonsai.cost.macs import Cost, CostModel
from torchbonsai.graph.channel_graph import ChannelGraph
from torchbonsai.pruning.rounds import Held, Places, can_go, floors, frozen, held, places_of, scaled, widths_of
from torchbonsai.pruning.schedules import Schedule
from torchbonsai.selection.budget import Budget, ceiling, nearest, share
from torchbonsai.selection.select import Floors, Scope, floor_counts, select
from torchbonsai.selection.widths import by_group as numbers_by_group
from torchbonsai.selection.widths import still_named, widths_by_group
from torchbonsai.surgery.plan import PruningPlan

_AMOUNTS = ("macs", "params", "channels")
Numbers = int | Mapping[str, int]


@dataclass(frozen=True, eq=False)
class Approach:
    """budget, round_to, min_channels: of `graph`, the original.

    Raises ConfigError for a budget without a way to it, and for names that fit no group.
    """

    graph: ChannelGraph
    budget: Budget
    schedule: Schedule
    scope: Scope
    round_to: Numbers
    min_channels: Floors
    dense: Cost = field(init=False)
    widths: dict[str, int] = field(init=False)
    places: Places = field(init=False)

    def __post_init__(self) -> None:
        if self.budget.zeros or self.budget.shares or self.budget.measured or self.budget.outliers is not None:
            raise ConfigError(
                message(
                    "a Pruner's budget is of macs, params, channels or widths, which a schedule can approach",
                    repr(self.budget),
                    "zeros, shares, outliers, memory and latency are cut to once, and have no way there",
                    "use tb.prune for them",
                )
            )
        object.__setattr__(self, "dense", CostModel(self.graph).dense)
        object.__setattr__(self, "widths", widths_by_group(self.graph, self.budget.widths or {}))
        object.__setattr__(self, "places", places_of(self.graph))
        floor_counts(self.graph, self.min_channels)  # raises for names that fit nothing
        numbers_by_group(self.graph, self.round_to, 1, "round_to")

    def due(self, step: int) -> Budget | None:
        """What the original is to be cut to after training step `step`, or None.

        global: in counts, which mean the same of whatever is left. uniform: the width of every group of the original.
        """
        wanted = {name: self._amount(name, step) for name in _AMOUNTS}
        amounts = {name: value for name, value in wanted.items() if value is not None}
        widths = {group: w for group in self.widths if (w := self._width(group, step)) is not None}
        if not amounts and not widths:
            return None
        budget = Budget(**amounts, widths=widths or None)  # type: ignore[arg-type]
        return self._uniform(budget) if self.scope == "uniform" else budget

    def _amount(self, name: str, step: int) -> int | float | None:
        amount = getattr(self.budget, name)
        if amount is None:
            return None
        dense = getattr(self.dense, name)
        last = _count(name, amount, dense)
        kept = self.schedule.keep(step, amount if isinstance(amount, float) else min(1.0, last / dense))
        if kept is None:
            return None
        return float(kept) if self.scope == "uniform" and isinstance(amount, float) else max(
            last, _count(name, float(kept), dense)
        )  # fmt: skip

    def _width(self, group: str, step: int) -> int | None:
        size, width = self.graph.by_name[group].size, self.widths[group]
        kept = self.schedule.keep(step, width / size)
        return None if kept is None else max(width, nearest(share(float(kept)), size))

    def _uniform(self, budget: Budget) -> Budget:
        """One share of every group of the original; the scores have no say in widths."""
        scores = {g.name: torch.zeros(g.size) for g in self.graph.groups}
        chosen = select(
            self.graph, scores, budget, scope="uniform", round_to=self.round_to, min_channels=self.min_channels
        )
        return Budget(widths={name: int(mask.sum()) for name, mask in chosen.items()})

    def reached(self, budget: Budget, cost: Cost, plan: PruningPlan) -> bool:
        """Whether what `plan` left of the original, at `cost`, keeps within `budget`, which is `due`."""
        amounts = all(
            amount is None or getattr(cost, name) <= amount for name in _AMOUNTS for amount in [getattr(budget, name)]
        )
        widths = widths_of(self.places, plan)
        return amounts and all(widths[name] <= wanted for name, wanted in (budget.widths or {}).items())

    def named(self, budget: Budget) -> bool:
        """Whether `budget`, which is `due`, a floor or a multiple must be said anew of what is left of the original."""
        by_name = not isinstance(self.min_channels, int) or not isinstance(self.round_to, int)
        return bool(budget.widths) or budget.channels is not None or by_name

    def again(self, budget: Budget, now: ChannelGraph, plan: PruningPlan) -> tuple[Budget, Numbers, Floors]:
        """`budget`, which is `due`, round_to and min_channels, said of the groups of `now`, which `plan` left.

        Raises PlanError where a group that is to be narrowed has no channel any more that can go.
        """
        atoms = held(self.places, plan, now)
        if budget.widths:
            budget = replace(budget, widths=self._widths_now(budget.widths, now, atoms) or None)
        if budget.channels is not None:
            # The last channel of a layer is one of the original's, but none that the graph of now counts.
            budget = replace(budget, channels=max(1, int(budget.channels) - frozen(atoms)))
        least = self.min_channels
        if not isinstance(least, int):
            counts = zip(self.graph.by_name, floor_counts(self.graph, least), strict=True)
            least = floors(now, atoms, dict(counts))
        return budget, still_named(now, self.round_to), least

    def _widths_now(self, widths: Mapping[str, int], now: ChannelGraph, atoms: Held) -> dict[str, int]:
        """Of every group of `now` that holds a channel of a group that `widths` names; others tied to it stay whole."""
        lost = [n for n, width in widths.items() if width < len(atoms[n]) and not can_go(atoms[n])]
        if lost:
            raise _lost(lost)
        found = scaled(now, atoms, {n: widths.get(n, len(mine)) for n, mine in atoms.items()})
        return {name: found[name] for name in scaled(now, atoms, widths)}


def _lost(names: list[str]) -> PlanError:
    return PlanError(
        message(
            "the network as it is now must be able to lose channels where the original could",
            f"none can go any more in {', '.join(names[:3])}",
            "code that decides on widths, or a module that was changed by hand since",
            "use scope='global' with macs=, params= or channels=",
        )
    )


def _count(name: str, amount: float | int, dense: int) -> int:
    """An amount as a count: a share of channels is a target, of macs and params a ceiling."""
    if isinstance(amount, int):
        return amount
    return max(1, nearest(share(amount), dense) if name == "channels" else ceiling(amount, dense))
