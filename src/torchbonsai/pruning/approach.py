"""The way to a budget: what a schedule asks for at a step, as shares of the original, said of the network as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from torchbonsai.core.errors import ConfigError, PlanError, message
from torchbonsai.cost.macs import Cost, CostModel
from torchbonsai.graph.channel_graph import ChannelGraph
from torchbonsai.pruning.schedules import Schedule
from torchbonsai.selection.budget import Budget, ceiling, nearest, share
from torchbonsai.selection.select import Floors, Scope, floor_counts, select
from torchbonsai.selection.widths import widths_by_group
from torchbonsai.surgery.plan import PruningPlan

_AMOUNTS = ("macs", "params", "channels")
Numbers = int | Mapping[str, int]


@dataclass(frozen=True, eq=False)
class Approach:
    """budget, round_to, min_channels: of `graph`, the original. Raises ConfigError for a budget without a way to it."""

    graph: ChannelGraph
    budget: Budget
    schedule: Schedule
    scope: Scope
    round_to: Numbers
    min_channels: Floors
    dense: Cost = field(init=False)
    widths: dict[str, int] = field(init=False)

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

    def translated(self, budget: Budget, now: ChannelGraph, plan: PruningPlan) -> Budget:
        """`budget`'s widths in the names of the groups of `now`, which `plan` left of the original.

        Raises PlanError where a group that is to be narrowed is no longer there.
        """
        found = {self._original(now, g.name, plan): g for g in now.groups}
        widths = dict(budget.widths or {})
        lost = [n for n, w in widths.items() if n not in found and w < self.graph.by_name[n].size]
        if lost:
            raise PlanError(
                message(
                    "the network as it is now must have the groups that the original had",
                    f"none for {lost[:3]}",
                    "code that decides on widths, or a module that was changed by hand since",
                    "use scope='global' with macs=, params= or channels=",
                )
            )
        return replace(budget, widths={found[n].name: min(w, found[n].size) for n, w in widths.items() if n in found})

    def floors(self, now: ChannelGraph, plan: PruningPlan) -> dict[str, int]:
        """{group of `now`: channels that it keeps at least}: shares of the original, of which `plan` left `now`."""
        names = [group.name for group in self.graph.groups]
        counts = dict(zip(names, floor_counts(self.graph, self.min_channels), strict=True))
        return {group.name: counts[self._original(now, group.name, plan)] for group in now.groups}

    def _original(self, now: ChannelGraph, name: str, plan: PruningPlan) -> str:
        """The original's group that a group of now is what is left of."""
        binding = now.by_name[name].bindings[0]
        position = int((binding.index >= 0).argmax())
        kept = plan.kept.get(binding.name, {}).get(binding.axis)
        position = position if kept is None else int(kept[position])
        atom = int(self.graph.axes[binding.name][binding.axis][position])
        return self.graph.groups[int(self.graph.group_of_atom[atom])].name


def _count(name: str, amount: float | int, dense: int) -> int:
    """An amount as a count: a share of channels is a target, of macs and params a ceiling."""
    if isinstance(amount, int):
        return amount
    return max(1, nearest(share(amount), dense) if name == "channels" else ceiling(amount, dense))
