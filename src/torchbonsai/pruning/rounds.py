"""Widths of a network that is cut again and again, by the layers of the dense one.

The next trace of a cut network may have other groups: a layer of one channel is none any more, and narrow layers may be
tied. So channels are counted where the plan of all cuts, which is against the dense network, says what stayed.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from torchbonsai.core.errors import BudgetError, message
from torchbonsai.graph.channel_graph import FROZEN, ChannelGraph, ChannelGroup, Ints
from torchbonsai.surgery.plan import PruningPlan

Places = dict[str, tuple[str, int, list[int]]]
"""Group of the dense network -> (parameter, axis, position of each channel): one slice of every channel."""


def places_of(graph: ChannelGraph) -> Places:
    """Where the channels of the dense network's groups lie."""
    return {group.name: _place(group) for group in graph.groups}


def _place(group: ChannelGroup) -> tuple[str, int, list[int]]:
    """The first position of every channel along an axis that all of them lie on: the one that names the group does."""
    for binding in group.bindings:
        positions = np.flatnonzero(binding.index >= 0)
        channels, first = np.unique(binding.index[positions], return_index=True)
        if len(channels) == group.size:
            return binding.name, binding.axis, np.sort(positions[first]).tolist()
    raise AssertionError(f"{group.name}: a group is made along one axis")


def widths_of(places: Places, plan: PruningPlan) -> dict[str, int]:
    """{group of the dense network: channels that `plan`, the whole one, keeps}."""
    return {name: len(_stay(plan, *place)) for name, place in places.items()}


def held(places: Places, plan: PruningPlan | None, graph: ChannelGraph) -> dict[str, Ints]:
    """{group of the dense network: (channels left,) atoms of `graph`}, FROZEN for a channel that can never go.

    graph: of the network that `plan` left of the dense one; None: the dense one itself.
    """
    found: dict[str, Ints] = {}
    for name, place in places.items():
        parameter, axis, _ = place
        now = _stay(plan, *place)
        atoms = graph.axes.get(parameter, {}).get(axis)
        found[name] = np.full(len(now), FROZEN, dtype=np.int64) if atoms is None else atoms[now]
    return found


def _stay(plan: PruningPlan | None, parameter: str, axis: int, positions: list[int]) -> Ints:
    """Where along the axis, as it is now, those of `positions` lie that `plan` keeps."""
    kept = None if plan is None else plan.kept.get(parameter, {}).get(axis)
    return np.array(positions, dtype=np.int64) if kept is None else np.flatnonzero(np.isin(kept.numpy(), positions))


def frozen(atoms: Mapping[str, Ints]) -> int:
    """How many channels of those that are `held` can never go."""
    return sum(int((mine == FROZEN).sum()) for mine in atoms.values())


def by_group(graph: ChannelGraph, atoms: Mapping[str, Ints], wanted: Mapping[str, int]) -> dict[str, int]:
    """{group of `graph`: channels} for widths by groups of the dense network, of which it `held` those atoms.

    Where it ties what was apart in the dense network, no layer gets narrower than is wanted of it. Raises BudgetError
    where no channel is left that can go.
    """
    found: dict[str, int] = {}
    for name, mine in atoms.items():
        free = mine[mine != FROZEN]
        stay = max(0, wanted[name] - (len(mine) - len(free)))
        for number in np.unique(graph.group_of_atom[free]).tolist():
            group = graph.groups[number]
            width = min(group.size, max(1, -(-stay * group.size // len(free))))
            found[group.name] = max(found.get(group.name, 1), width)
    if not found:
        raise BudgetError(
            message(
                "a cut needs a layer that can lose channels",
                f"{', '.join(f'{name}: {len(mine)}' for name, mine in atoms.items())} channels, none of which can go",
                "rounds that left one channel of every layer",
                "cut in fewer rounds, cut less in each, or raise min_channels",
            )
        )
    return found


def otherwise(
    widths: Mapping[str, int], wanted: Mapping[str, int], least: Mapping[str, int] = MappingProxyType({})
) -> list[str]:
    """A note on layers with other widths than were wanted, or below their floor: where a cut's proof ties layers that
    were apart when it was asked for. All of them by groups of the dense network."""
    found = [f"{n} has {widths[n]} for {k}" for n, k in wanted.items() if widths.get(n, k) != k]
    found += [f"{n} has {w} for at least {least[n]}" for n, w in widths.items() if w < least.get(n, 1)]
    return [f"the proof of a cut tied layers, so that {', '.join(found)} channels"] if found else []
