"""The error for a budget that cannot be met: the reachable floor, and what holds it up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from torchbonsai.core.errors import BudgetError, message
from torchbonsai.graph.channel_graph import FROZEN, Bools, ChannelGraph, Ints
from torchbonsai.selection.ladder import Bounds
from torchbonsai.selection.measures import Meter

SHOWN = 4
"""How many groups and how many frozen entries are named, the costliest first."""


def unreachable(
    graph: ChannelGraph,
    meter: Meter,
    floor: Bools,
    given: Mapping[str, int],
    bounds: Bounds,
) -> BudgetError:
    """`floor`: (n_atoms,) the narrowest choice there is; it misses at least one of the limits."""
    least, limits = meter.of(floor), meter.limits
    missed = [name for name, limit in limits.items() if least[name] > limit]
    must = "; ".join(f"at most {_said(limits[n])} {n} of the dense {_said(meter.dense(n))}" for n in missed)
    reach = "; ".join(f"{_said(least[n])} {n} ({least[n] / meter.dense(n):.4g} of dense)" for n in missed)
    rules = f"min_channels={_shown(bounds.min_channels)}, round_to={_shown(bounds.round_to)}"
    rules += f", {len(given)} given widths" if given else ""
    held = [line for name in missed for line in _holders(graph, meter, floor, name)]
    return BudgetError(
        message(
            f"the budget allows {must}",
            f"the reachable floor is {reach}, with {rules}",
            "held up by\n    " + "\n    ".join(dict.fromkeys(held)),
            "allow more, lower min_channels or round_to, give other widths, or unfreeze what graph.explain() shows",
        )
    )


def _said(amount: float) -> str:
    return f"{amount:,}" if isinstance(amount, int) else f"{amount:,.4g}"


def _holders(graph: ChannelGraph, meter: Meter, floor: Bools, measure: str) -> list[str]:
    """One line a group and a frozen entry, with what the ops and parameters they are part of still cost."""
    groups: Counter[int] = Counter()
    frozen: Counter[int] = Counter()
    for amount, numbers, held in _parts(graph, meter, floor, measure):
        groups.update(dict.fromkeys(numbers, amount))
        frozen.update(dict.fromkeys(held, amount))
    left = np.bincount(graph.group_of_atom, weights=floor, minlength=len(graph.groups)).astype(int)
    lines = []
    for number, amount in groups.most_common(SHOWN):
        group = graph.groups[number]
        lines.append(f"group {group.name!r}, {left[number]} of {group.size} channels left: {_said(amount)} {measure}")
    for number, amount in frozen.most_common(SHOWN):
        entry = graph.frozen[number]
        where = f" ({entry.source})" if entry.source else ""
        lines.append(f"frozen {entry.name!r}, {entry.reason}{where}: {_said(amount)} {measure}")
    return lines


def _parts(graph: ChannelGraph, meter: Meter, floor: Bools, measure: str) -> Iterable[tuple[Any, set[int], list[int]]]:
    """(amount, numbers of the groups it depends on, numbers of the frozen entries it belongs to)."""
    cost = meter.cost
    tensors = [{member.split(" ")[0] for member in f.members} for f in graph.frozen]
    if measure in meter.models:
        whole = meter.models[measure].of(floor)
        for number, group in enumerate(graph.groups):
            without = floor.copy()
            without[group.offset : group.offset + group.size] = False
            yield whole - meter.models[measure].of(without), {number}, []
    elif measure == "channels":
        for number, group in enumerate(graph.groups):
            yield int(floor[group.offset : group.offset + group.size].sum()), {number}, []
    elif measure == "params":
        for name, amount in cost.params_by_name(floor).items():
            yield amount, _groups(graph, graph.axes.get(name, {}).values()), _holding(tensors, name)
    else:
        modules = [{name.rpartition(".")[0] for name in names} for names in tensors]
        for product, amount in zip(graph.products, cost.macs_by_product(floor), strict=True):
            yield amount, _groups(graph, product.extents), _holding(modules, product.module)


def _holding(names: list[set[str]], name: str) -> list[int]:
    return [number for number, held in enumerate(names) if name in held]


def _groups(graph: ChannelGraph, extents: Iterable[Ints]) -> set[int]:
    return {int(g) for atoms in extents for g in np.unique(graph.group_of_atom[atoms[atoms != FROZEN]])}


def _shown(values: Ints) -> str:
    """One number for all groups, or the range."""
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low} to {high}"
