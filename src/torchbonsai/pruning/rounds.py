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

Places = dict[str, tuple[str, int, list[list[int]]]]
"""Group of the dense network -> (parameter, axis, where each of its channels lies there: at several positions where
channels are in blocks)."""
Held = dict[str, list[Ints]]
"""Group of the dense network -> the atoms that each of its channels that are left lies in; FROZEN among them where the
channel can never go."""


def places_of(graph: ChannelGraph) -> Places:
    """Where the channels of the dense network's groups lie."""
    return {group.name: _place(group) for group in graph.groups}


def _place(group: ChannelGroup) -> tuple[str, int, list[list[int]]]:
    """Along an axis that all of its channels lie on: the one that names the group is such."""
    for binding in group.bindings:
        positions = np.flatnonzero(binding.index >= 0)
        order = np.argsort(binding.index[positions], kind="stable")
        channels = np.split(positions[order], np.flatnonzero(np.diff(binding.index[positions][order])) + 1)
        if len(channels) == group.size:
            return binding.name, binding.axis, sorted(channel.tolist() for channel in channels)
    raise AssertionError(f"{group.name}: a group is made along one axis")


def widths_of(places: Places, plan: PruningPlan) -> dict[str, int]:
    """{group of the dense network: channels that `plan`, the whole one, keeps, if only in part}."""
    return {name: len(_stay(plan, *place)) for name, place in places.items()}


def held(places: Places, plan: PruningPlan | None, graph: ChannelGraph) -> Held:
    """What is left of every group. graph: of the network that `plan` left of the dense one; None: of the dense one."""
    found: Held = {}
    for name, place in places.items():
        parameter, axis, _ = place
        atoms = graph.axes.get(parameter, {}).get(axis)
        never = np.array([FROZEN])
        found[name] = [never if atoms is None else np.unique(atoms[now]) for now in _stay(plan, *place)]
    return found


def _stay(plan: PruningPlan | None, parameter: str, axis: int, channels: list[list[int]]) -> list[list[int]]:
    """Where along the axis, as it is now, each channel lies of which `plan` keeps anything."""
    kept = None if plan is None else plan.kept.get(parameter, {}).get(axis)
    if kept is None:
        return channels
    now = {position: number for number, position in enumerate(kept.tolist())}
    return [left for channel in channels if (left := [now[position] for position in channel if position in now])]


def frozen(atoms: Held) -> int:
    """How many channels of those that are `held` can never go."""
    return sum(len(mine) - len(_free(mine)) for mine in atoms.values())


def _free(mine: list[Ints]) -> list[Ints]:
    """Of a group's channels those that can go."""
    return [channel for channel in mine if FROZEN not in channel]


def can_go(mine: list[Ints]) -> bool:
    """Whether any of a group's channels that are `held` can go."""
    return bool(_free(mine))


def scaled(graph: ChannelGraph, atoms: Held, wanted: Mapping[str, int]) -> dict[str, int]:
    """{group of `graph`: channels} for widths by groups of the dense network, of which it `held` those atoms.

    Where it ties what was apart in the dense network, no layer gets narrower than is wanted of it. What is left of
    the dense group only in channels that can never go is left out.
    """
    found: dict[str, int] = {}
    for name, width in wanted.items():
        free = _free(atoms[name])
        stay = max(0, width - (len(atoms[name]) - len(free)))
        for number in np.unique(graph.group_of_atom[np.concatenate(free)]).tolist() if free else ():
            group = graph.groups[number]
            least = min(group.size, max(1, -(-stay * group.size // len(free))))
            found[group.name] = max(found.get(group.name, 1), least)
    return found


def by_group(graph: ChannelGraph, atoms: Held, wanted: Mapping[str, int]) -> dict[str, int]:
    """The `scaled` widths. Raises BudgetError where no channel is left that can go."""
    if found := scaled(graph, atoms, wanted):
        return found
    raise BudgetError(
        message(
            "a cut needs a layer that can lose channels",
            f"{', '.join(f'{name}: {len(atoms[name])}' for name in wanted)} channels, none of which can go",
            "rounds that left one channel of every layer",
            "cut in fewer rounds, cut less in each, or raise min_channels",
        )
    )


def floors(graph: ChannelGraph, atoms: Held, counts: Mapping[str, int]) -> dict[str, int]:
    """{group of `graph`: channels that it keeps at least} for floors by groups of the dense network."""
    return {group.name: 1 for group in graph.groups} | scaled(graph, atoms, {n: c for n, c in counts.items() if c > 1})


def otherwise(
    widths: Mapping[str, int], wanted: Mapping[str, int], least: Mapping[str, int] = MappingProxyType({})
) -> list[str]:
    """A note on layers with other widths than were wanted, or below their floor: where a cut's proof ties layers that
    were apart when it was asked for. All of them by groups of the dense network."""
    found = [f"{n} has {widths[n]} for {k}" for n, k in wanted.items() if widths.get(n, k) != k]
    found += [f"{n} has {widths[n]} for at least {k}" for n, k in least.items() if widths.get(n, k) < k]
    return [f"the proof of a cut tied layers, so that {', '.join(found)} channels"] if found else []
