"""From evidence to the channel graph: atoms, groups and their names, what is frozen and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from torchbonsai.graph.channel_graph import (
    FROZEN,
    Binding,
    Bools,
    ChannelGraph,
    ChannelGroup,
    Frozen,
    Inexact,
    Ints,
    Product,
    Role,
    Site,
    Source,
)
from torchbonsai.graph.evidence import Evidence
from torchbonsai.graph.outputs import outputs_of

Axis = tuple[str, int]


@dataclass(frozen=True, eq=False)
class _Held:
    """What lies along every labelled axis, one axis after the other.

    axes: parameters in the order in which the forward reads them, unread ones last. atoms: (positions,) of all axes
    in one array; starts: where each begins.
    """

    axes: list[Axis]
    atoms: Ints
    starts: Ints
    stops: Ints

    def of(self, k: int, values: np.ndarray | None = None) -> np.ndarray:
        """The part of `values` (default: the atoms) that belongs to axis number k."""
        return (self.atoms if values is None else values)[self.starts[k] : self.stops[k]]

    def any(self, values: Bools) -> Bools:
        """(axes,) is it so anywhere along the axis?"""
        return np.logical_or.reduceat(values, self.starts) if self.axes else np.zeros(0, dtype=bool)


def _held(evidence: Evidence) -> _Held:
    late = len(evidence.order) + max(evidence.order.values(), default=0) + 1
    names = sorted(evidence.labels, key=lambda n: evidence.order.get(n, late))
    axes = [(n, a) for n in names for a in evidence.labels[n]]
    arrays = [evidence.labels[n][a] for n, a in axes]
    stops = np.cumsum([x.size for x in arrays], dtype=np.int64)
    starts = stops - np.array([x.size for x in arrays], dtype=np.int64)
    labels = np.concatenate([np.zeros(0, np.int64), *arrays])
    return _Held(axes, evidence.solution.component[labels], starts, stops)


def build(evidence: Evidence) -> ChannelGraph:
    """Solve nothing new: read groups, frozen channels, MACs and watching sites off solved evidence."""
    why = evidence.solution.why
    held = _held(evidence)
    producing = [k for k, axis in enumerate(held.axes) if "produces" in evidence.roles.get(axis, ())]
    members = _group_members(held, producing, why)
    number = np.full(why.size, FROZEN, dtype=np.int64)
    offset = 0
    for _, atoms in members:
        number[atoms] = np.arange(offset, offset + atoms.size)
        offset += atoms.size
    numbers = number[held.atoms]
    axes: dict[str, dict[int, Ints]] = {}
    for k in np.flatnonzero(held.any(numbers != FROZEN)).tolist():
        name, axis = held.axes[k]
        axes.setdefault(name, {})[axis] = held.of(k, numbers)
    return ChannelGraph(
        groups=_groups(evidence, held, members, number, numbers),
        frozen=_frozen(evidence, held, producing),
        shapes=evidence.shapes,
        axes=axes,
        parameters=evidence.parameters,
        products=_products(evidence, number),
        sites=_sites(evidence, number),
        aliases=evidence.aliases,
        unreached=tuple(n for n in evidence.shapes if n in evidence.parameters and n not in evidence.order),
        pointers=_pointers(evidence, number),
        notes=evidence.notes,
        outputs=outputs_of(evidence.logs[0], number, evidence.solution.component),
        evidence=evidence,
    )


def _keys(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 2**63, size=n, dtype=np.uint64)


def _group_members(held: _Held, producing: list[int], why: Ints) -> list[tuple[list[Axis], Ints]]:
    """(producing axes, atoms) of each group: atoms made by the same axes, in order along the first of them."""
    made = np.zeros(why.size, dtype=bool)
    for k in producing:
        made[held.of(k)] = True
    # atoms that no weight makes (an embedding that is only added) are told apart by all that holds them
    unmade = set(np.flatnonzero(held.any(~made[held.atoms])).tolist()).difference(producing)
    others = sorted(unmade)
    signature = np.zeros(why.size, dtype=np.uint64)
    for k, key in zip([*producing, *others], _keys(len(producing) + len(others)), strict=True):
        atoms = _distinct(held.of(k))
        signature[atoms if k not in unmade else atoms[~made[atoms]]] += key
    first: dict[int, Ints] = {}
    axes: dict[int, list[Axis]] = {}
    for k in [*producing, *others]:
        atoms = held.of(k)
        free = why[atoms] < 0
        atoms = atoms[free & ~made[atoms] if k in unmade else free]
        found = signature[atoms]
        for s in found[:1].tolist() if (found == found[:1]).all() else dict.fromkeys(found.tolist()):
            if s not in first:
                mine = atoms[found == s]
                first[s] = mine if _rising(mine) else mine[np.sort(np.unique(mine, return_index=True)[1])]
            axes.setdefault(s, []).append(held.axes[k])
    return [(axes[s], first[s]) for s in first]


def _rising(values: Ints) -> bool:
    return bool((values[1:] > values[:-1]).all())


def _distinct(values: Ints) -> Ints:
    """np.unique, quick where there is nothing to do."""
    return values if _rising(values) else np.unique(values)


def _groups(
    evidence: Evidence, held: _Held, members: list[tuple[list[Axis], Ints]], number: Ints, numbers: Ints
) -> tuple[ChannelGroup, ...]:
    names = _names(evidence, members)
    bound: dict[int, list[Binding]] = {}
    group_of = np.repeat(np.arange(len(members)), [m[1].size for m in members])
    inexact = _inexact(evidence, number, group_of)
    offsets = np.cumsum([0, *(m[1].size for m in members)])
    lows = np.minimum.reduceat(numbers, held.starts) if held.axes else numbers
    highs = np.maximum.reduceat(numbers, held.starts) if held.axes else numbers
    for k in np.flatnonzero(highs != FROZEN).tolist():
        mine, low = held.of(k, numbers), int(lows[k])
        alone = low != FROZEN and group_of[low] == group_of[highs[k]]
        for g in [int(group_of[low])] if alone else np.unique(group_of[mine[mine != FROZEN]]).tolist():
            index = mine - offsets[g]
            if not alone:
                index = np.where((index >= 0) & (mine < offsets[g + 1]), index, -1)
            name, axis = held.axes[k]
            for role in _roles(evidence, (name, axis)):
                bound.setdefault(g, []).append(Binding(name, axis, role, index))
    return tuple(
        ChannelGroup(names[g], atoms.size, int(offsets[g]), tuple(bound[g]), tuple(inexact.get(g, ())))
        for g, (_, atoms) in enumerate(members)
    )


def _roles(evidence: Evidence, axis: Axis) -> list[Role]:
    roles = evidence.roles.get(axis, frozenset())
    found: list[Role] = [r for r in ("produces", "consumes") if r in roles]
    return found or ["follows"]


def _inexact(evidence: Evidence, number: Ints, group_of: Ints) -> dict[int, dict[Inexact, None]]:
    """Group number -> why its atoms are inexact, in forward order."""
    component = evidence.solution.component
    found: dict[int, dict[Inexact, None]] = {}
    for event in evidence.space.inexact:
        atoms = number[component[event.labels.ravel()]]
        for g in np.unique(group_of[atoms[atoms != FROZEN]]).tolist():
            found.setdefault(g, {})[Inexact(event.reason, event.source)] = None
    return found


def _module(name: str) -> str:
    """The module that a parameter belongs to; a parametrised weight belongs to the module it is a weight of."""
    return name.split(".parametrizations.")[0] if ".parametrizations." in name else name.rpartition(".")[0]


def _names(evidence: Evidence, members: list[tuple[list[Axis], Ints]]) -> list[str]:
    """The first producing module; `parameter[start:stop]` where that module makes several groups."""
    firsts = [axes[0] for axes, _ in members]
    share = Counter(_module(name) for name, _ in firsts)
    names: list[str] = []
    for (name, axis), (_, atoms) in zip(firsts, members, strict=True):
        module = _module(name)
        label = module if module and share[module] == 1 else _span(evidence, name, axis, atoms)
        names.append(label if label not in names else f"{label}#{names.count(label) + 1}")
    return names


def _span(evidence: Evidence, name: str, axis: int, atoms: Ints) -> str:
    labels = evidence.labels[name][axis]
    at = np.flatnonzero(np.isin(evidence.solution.component[labels], atoms))
    whole = at.size == labels.size
    return name if whole else f"{name}[{at[0]}:{at[-1] + 1}]"


def _frozen(evidence: Evidence, held: _Held, producing: list[int]) -> tuple[Frozen, ...]:
    """One entry for each event and the first axis that makes what it froze."""
    why = evidence.solution.why
    stuck = held.any(why[held.atoms] >= 0)
    seen = np.zeros(why.size, dtype=bool)
    entries: list[Frozen] = []
    for k in (k for k in producing if stuck[k]):
        name = held.axes[k][0]
        atoms = held.of(k)
        atoms = np.unique(atoms[why[atoms] >= 0])
        for event in dict.fromkeys(why[atoms].tolist()):
            mine = atoms[(why[atoms] == event) & ~seen[atoms]]
            if not mine.size:
                continue
            seen[mine] = True
            concerned = np.zeros(why.size, dtype=bool)
            concerned[mine] = True
            holders = [held.axes[h] for h in np.flatnonzero(held.any(concerned[held.atoms])).tolist()]
            reason, source = _reason(evidence, event)
            members = tuple(f"{n} axis {a}" for n, a in holders)
            entries.append(Frozen(_module(name) or name, int(mine.size), reason, source, members))
    return tuple(entries)


def _reason(evidence: Evidence, event: int) -> tuple[str, Source | None]:
    if event >= len(evidence.space.frozen):
        return "tied to positions that carry no channel labels", None
    found = evidence.space.frozen[event]
    return found.reason, found.source


def _products(evidence: Evidence, number: Ints) -> tuple[Product, ...]:
    """The MACs of the first eval pass."""
    component = evidence.solution.component
    known: dict[int, Ints] = {}

    def atoms(labels: Ints) -> Ints:
        if id(labels) not in known:
            known[id(labels)] = number[component[labels]].ravel()
        return known[id(labels)]

    return tuple(
        Product(record.name, module, constant, tuple(atoms(e) for e in extents))
        for record in evidence.logs[0].records
        for constant, extents, module in record.products
    )


def _pointers(evidence: Evidence, number: Ints) -> dict[str, Ints]:
    """Buffers whose values are positions, and the atoms at those positions."""
    return {
        name: number[evidence.solution.component[labels]]
        for log in evidence.logs
        for record in log.records
        for name, labels in record.pointers
    }


def _sites(evidence: Evidence, number: Ints) -> tuple[Site, ...]:
    """Outputs of the last pointwise op before a contraction, a pooling or a reduction."""
    log = evidence.logs[0]
    found: dict[int, Site] = {}
    for record in log.records:
        if record.kind not in ("contraction", "spatial", "reduction"):
            continue
        for origin in dict.fromkeys(o for origins in record.origins for o in origins):
            made = log.records[origin]
            if origin in found or made.kind != "pointwise" or not made.outputs:
                continue
            for axes, labels in made.outputs[0]:
                atoms = number[evidence.solution.component[labels]]
                if len(axes) == 1 and (atoms != FROZEN).any():
                    module = made.inputs[0].leaf or ""
                    found[origin] = Site(origin, made.name, module, axes[0], atoms)
    return tuple(found[o] for o in sorted(found))
