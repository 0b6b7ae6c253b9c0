"""From evidence to the channel graph: atoms, groups and their names, what is frozen and why."""

from __future__ import annotations

from collections import Counter

import numpy as np

from torchbonsai.graph.channel_graph import (
    FROZEN,
    Binding,
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


def build(evidence: Evidence) -> ChannelGraph:
    """Solve nothing new: read groups, frozen channels, MACs and watching sites off solved evidence."""
    component, why = evidence.solution.component, evidence.solution.why
    producing = _producing_axes(evidence)
    atoms_of = {a: component[evidence.labels[a[0]][a[1]]] for a in _axes(evidence)}
    members = _group_members(producing, atoms_of, why)
    number = np.full(why.size, FROZEN, dtype=np.int64)
    offset = 0
    for _, atoms in members:
        number[atoms] = np.arange(offset, offset + atoms.size)
        offset += atoms.size
    axes: dict[str, dict[int, Ints]] = {}
    for (name, axis), atoms in atoms_of.items():
        numbered = number[atoms]
        if (numbered != FROZEN).any():
            axes.setdefault(name, {})[axis] = numbered
    groups = _groups(evidence, members, number, axes)
    return ChannelGraph(
        groups=groups,
        frozen=_frozen(evidence, producing, atoms_of),
        shapes=evidence.shapes,
        axes=axes,
        parameters=evidence.parameters,
        products=_products(evidence, number),
        sites=_sites(evidence, number),
        aliases=evidence.aliases,
        unreached=tuple(n for n in evidence.shapes if n in evidence.parameters and n not in evidence.order),
        pointers=_pointers(evidence, number),
        notes=evidence.notes,
        outputs=outputs_of(evidence.logs[0], number, component),
        evidence=evidence,
    )


def _axes(evidence: Evidence) -> list[Axis]:
    """Every labelled axis, parameters in the order in which the forward reads them, unread ones last."""
    late = len(evidence.order) + max(evidence.order.values(), default=0) + 1
    names = sorted(evidence.labels, key=lambda n: evidence.order.get(n, late))
    return [(n, a) for n in names for a in evidence.labels[n]]


def _producing_axes(evidence: Evidence) -> list[Axis]:
    return [a for a in _axes(evidence) if "produces" in evidence.roles.get(a, ())]


def _keys(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 2**63, size=n, dtype=np.uint64)


def _group_members(producing: list[Axis], atoms_of: dict[Axis, Ints], why: Ints) -> list[tuple[list[Axis], Ints]]:
    """(producing axes, atoms) of each group: atoms made by the same axes, in order along the first of them."""
    makes = set(producing)
    others = [a for a in atoms_of if a not in makes]
    made = np.zeros(why.size, dtype=bool)
    for axis in producing:
        made[atoms_of[axis]] = True
    signature = np.zeros(why.size, dtype=np.uint64)
    for axis, key in zip([*producing, *others], _keys(len(atoms_of)), strict=True):
        atoms = _distinct(atoms_of[axis])
        # atoms that no weight makes (an embedding that is only added) are told apart by all that holds them
        signature[atoms if axis in makes or not len(others) else atoms[~made[atoms]]] += key
    first: dict[int, Ints] = {}
    axes: dict[int, list[Axis]] = {}
    for axis in [*producing, *others]:
        atoms = atoms_of[axis]
        atoms = atoms[why[atoms] < 0] if axis in makes else atoms[(why[atoms] < 0) & ~made[atoms]]
        found = signature[atoms]
        for s in found[:1].tolist() if (found == found[:1]).all() else dict.fromkeys(found.tolist()):
            if s not in first:
                mine = atoms[found == s]
                first[s] = mine if _rising(mine) else mine[np.sort(np.unique(mine, return_index=True)[1])]
            axes.setdefault(s, []).append(axis)
    return [(axes[s], first[s]) for s in first]


def _rising(values: Ints) -> bool:
    return bool((values[1:] > values[:-1]).all())


def _distinct(values: Ints) -> Ints:
    """np.unique, quick where there is nothing to do."""
    return values if _rising(values) else np.unique(values)


def _groups(
    evidence: Evidence, members: list[tuple[list[Axis], Ints]], number: Ints, axes: dict[str, dict[int, Ints]]
) -> tuple[ChannelGroup, ...]:
    names = _names(evidence, members)
    inexact = _inexact(evidence, number)
    held: dict[int, list[Binding]] = {}
    group_of = np.repeat(np.arange(len(members)), [m[1].size for m in members])
    offsets = np.cumsum([0, *(m[1].size for m in members)])
    unread = len(evidence.shapes) * 10 + max(evidence.order.values(), default=0)
    for name in sorted(axes, key=lambda n: evidence.order.get(n, unread)):
        for axis, numbers in axes[name].items():
            low, high = int(numbers.min()), int(numbers.max())
            alone = low != FROZEN and group_of[low] == group_of[high]
            for g in [int(group_of[low])] if alone else np.unique(group_of[numbers[numbers != FROZEN]]).tolist():
                index = numbers - offsets[g]
                if not alone:
                    index = np.where((index >= 0) & (numbers < offsets[g + 1]), index, -1)
                for role in _roles(evidence, (name, axis)):
                    held.setdefault(g, []).append(Binding(name, axis, role, index))
    return tuple(
        ChannelGroup(names[g], atoms.size, int(offsets[g]), tuple(held[g]), tuple(_of(inexact, offsets, g)))
        for g, (_, atoms) in enumerate(members)
    )


def _roles(evidence: Evidence, axis: Axis) -> list[Role]:
    roles = evidence.roles.get(axis, frozenset())
    found: list[Role] = [r for r in ("produces", "consumes") if r in roles]
    return found or ["follows"]


def _inexact(evidence: Evidence, number: Ints) -> list[tuple[Ints, Inexact]]:
    component = evidence.solution.component
    found = []
    for event in evidence.space.inexact:
        atoms = number[component[np.unique(event.labels)]]
        atoms = atoms[atoms != FROZEN]
        if atoms.size:
            found.append((atoms, Inexact(event.reason, event.source)))
    return found


def _of(inexact: list[tuple[Ints, Inexact]], offsets: Ints, g: int) -> list[Inexact]:
    low, high = offsets[g], offsets[g + 1]
    return list(dict.fromkeys(why for atoms, why in inexact if ((atoms >= low) & (atoms < high)).any()))


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


def _frozen(evidence: Evidence, producing: list[Axis], atoms_of: dict[Axis, Ints]) -> tuple[Frozen, ...]:
    """One entry for each event and the first axis that makes what it froze."""
    why = evidence.solution.why
    seen = np.zeros(why.size, dtype=bool)
    entries: list[Frozen] = []
    for name, axis in producing:
        atoms = atoms_of[(name, axis)]
        atoms = np.unique(atoms[why[atoms] >= 0])
        for event in dict.fromkeys(why[atoms].tolist()):
            mine = atoms[(why[atoms] == event) & ~seen[atoms]]
            if not mine.size:
                continue
            seen[mine] = True
            concerned = np.zeros(why.size, dtype=bool)
            concerned[mine] = True
            holders = [f"{n} axis {a}" for (n, a), held in atoms_of.items() if concerned[held].any()]
            reason, source = _reason(evidence, event)
            entries.append(Frozen(_module(name) or name, int(mine.size), reason, source, tuple(holders)))
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
        for origin in dict.fromkeys(o for s in record.inputs for o in s.origins):
            made = log.records[origin]
            if origin in found or made.kind != "pointwise" or not made.outputs:
                continue
            for axes, labels in made.outputs[0]:
                atoms = number[evidence.solution.component[labels]]
                if len(axes) == 1 and (atoms != FROZEN).any():
                    module = made.inputs[0].leaf or ""
                    found[origin] = Site(origin, made.name, module, axes[0], atoms)
    return tuple(found[o] for o in sorted(found))
