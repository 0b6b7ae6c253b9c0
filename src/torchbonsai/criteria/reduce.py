"""Bindings -> one number an atom, once, for all criteria that look at weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from torchbonsai.core.errors import PruningError, message
from torchbonsai.graph.channel_graph import FROZEN, Binding, ChannelGraph, ChannelGroup, Role

Elementwise = Callable[[str], Tensor]
"""Tensor name -> a tensor of that tensor's shape."""
_SAFE = 1e-12
"""Norms between this and its inverse have squares well inside float32."""


def totals(graph: ChannelGraph, elementwise: Elementwise, role: Role) -> dict[str, Tensor]:
    """{group: (n atoms,) float64}: for each atom the sum of `elementwise(name)` over all its slices of one role.

    A tied tensor counts once, whatever names it has. Raises PruningError for a group without any slice.
    """

    def summed(name: str, axis: int) -> Tensor:
        return per_position(elementwise(name), axis)

    return {group.name: _total(graph, group, summed, role) for group in graph.groups}


def norms(graph: ChannelGraph, tensor: Elementwise, role: Role, p: float) -> dict[str, Tensor]:
    """{group: (n atoms,) float64}: the p-norm over all weights in an atom's slices of one role, taken together."""
    return {
        g.name: _total(graph, g, lambda name, axis: _powers(tensor(name), axis, p), role).pow(1 / p)
        for g in graph.groups
    }


def rows(graph: ChannelGraph, tensor: Elementwise, group: ChannelGroup, role: Role) -> list[Tensor]:
    """(n atoms, …) float64 for each slice of that role: what each atom holds of it, laid end to end, zero for none.

    Raises PruningError for a group without any slice.
    """
    bindings = _bound(graph, group, role)
    return [_laid_out(b, tensor(b.name).double().movedim(b.axis, 0).flatten(1), group.size) for b in bindings]


def _laid_out(binding: Binding, values: Tensor, size: int) -> Tensor:
    """values: (size of the axis, entries); an atom that lies at several positions has their entries in order."""
    ours = np.flatnonzero(binding.index != FROZEN)
    order = ours[np.argsort(binding.index[ours], kind="stable")]
    counts = np.bincount(binding.index[order], minlength=size)
    turn = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    out = values.new_zeros(size, int(counts.max()), values.shape[1])
    out[torch.from_numpy(binding.index[order]), torch.from_numpy(turn)] = values[torch.from_numpy(order)]
    return out.flatten(1)


def by_group(graph: ChannelGraph, values: Tensor) -> dict[str, Tensor]:
    """(n_atoms,) -> {group: (n atoms,)}."""
    return {g.name: values[g.offset : g.offset + g.size] for g in graph.groups}


def _powers(values: Tensor, axis: int, p: float) -> Tensor:
    """(size of the axis,) float64: sums of |values|^p over all other axes.

    Summed in float32, ten times as fast, where that neither over- nor underflows.
    """
    others = [a for a in range(values.ndim) if a != axis]
    if not others:
        return values.double().abs().pow(p)
    if values.dtype is torch.float32:
        norm = torch.linalg.vector_norm(values, p, others)
        if bool(((norm > _SAFE) & (norm < 1 / _SAFE)).all()):
            return norm.double().pow(p)
    return torch.linalg.vector_norm(values, p, others, dtype=torch.float64).pow(p)


def per_position(values: Tensor, axis: int) -> Tensor:
    """(size of the axis,) float64: sums over all other axes."""
    return values.double().movedim(axis, 0).flatten(1).sum(1) if values.ndim > 1 else values.double()


def _total(graph: ChannelGraph, group: ChannelGroup, summed: Callable[[str, int], Tensor], role: Role) -> Tensor:
    bindings = _bound(graph, group, role)
    total = torch.zeros(group.size, dtype=torch.float64)
    for binding in bindings:
        _add(total, binding, summed(binding.name, binding.axis).cpu())
    return total


def _add(total: Tensor, binding: Binding, values: Tensor) -> None:
    index = torch.from_numpy(binding.index)
    ours = index != FROZEN
    total.index_add_(0, index[ours], values[ours])


def _bound(graph: ChannelGraph, group: ChannelGroup, role: Role) -> list[Binding]:
    """The group's slices of that role, a tied tensor once.

    Channels that no weight makes, those of a table in a buffer say, are scored by the table, else by what reads them.
    """
    for wanted in (role, "follows", "consumes"):
        bindings = [b for b in group.bound(wanted) if graph.aliases.get(b.name, b.name) == b.name]
        if bindings:
            return bindings
    raise PruningError(
        message(
            f"scoring by weights needs a tensor that {role} the channels of group {group.name!r}",
            f"bindings {[(b.name, b.axis, b.role) for b in group.bindings]}",
            "channels that no weight makes",
            "leave the group out with ignore=, or use a criterion that watches activations",
        )
    )
