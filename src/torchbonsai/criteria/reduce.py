"""Bindings -> one number an atom, once, for all criteria that look at weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from torchbonsai.core.errors import PruningError, message
from torchbonsai.graph.channel_graph import FROZEN, Binding, ChannelGraph, ChannelGroup, Role

Elementwise = Callable[[str], Tensor]
"""Tensor name -> a tensor of that tensor's shape."""


def totals(graph: ChannelGraph, elementwise: Elementwise, role: Role) -> dict[str, Tensor]:
    """{group: (n atoms,) float64}: for each atom the sum of `elementwise(name)` over all its slices of one role.

    A tied tensor counts once, whatever names it has. Raises PruningError for a group without a slice of that role.
    """

    def summed(binding: Binding) -> Tensor:
        return per_position(elementwise(binding.name), binding.axis)

    return {group.name: _total(graph, group, summed, role) for group in graph.groups}


def norms(graph: ChannelGraph, tensor: Elementwise, role: Role, p: float) -> dict[str, Tensor]:
    """{group: (n atoms,) float64}: the p-norm over all weights in an atom's slices of one role, taken together.

    A slice's own norm is taken in the weight's precision (float32 at least), which is many times faster and as exact as
    the weight is; slices are put together in float64.
    """
    sums = {g.name: _total(graph, g, lambda b: _powers(tensor(b.name), b.axis, p), role) for g in graph.groups}
    return {name: values.pow(1 / p) for name, values in sums.items()}


def _powers(values: Tensor, axis: int, p: float) -> Tensor:
    """(size of the axis,) float64: for each position the sum of |value|^p over all other axes."""
    dtype = torch.promote_types(values.dtype, torch.float32)
    if values.ndim == 1:
        return values.double().abs().pow(p)
    others = [a for a in range(values.ndim) if a != axis]
    return torch.linalg.vector_norm(values, p, dim=others, dtype=dtype).double().pow(p)


def per_position(values: Tensor, axis: int) -> Tensor:
    """(size of the axis,) float64: sums over all other axes."""
    return values.double().movedim(axis, 0).flatten(1).sum(1) if values.ndim > 1 else values.double()


def _total(graph: ChannelGraph, group: ChannelGroup, summed: Callable[[Binding], Tensor], role: Role) -> Tensor:
    bindings = [b for b in group.bound(role) if graph.aliases.get(b.name, b.name) == b.name]
    if not bindings:
        raise _nothing(group, role)
    total = torch.zeros(group.size, dtype=torch.float64)
    for binding in bindings:
        _add(total, binding, summed(binding).cpu())
    return total


def _add(total: Tensor, binding: Binding, values: Tensor) -> None:
    index = torch.from_numpy(binding.index)
    ours = index != FROZEN
    total.index_add_(0, index[ours], values[ours])


def _nothing(group: ChannelGroup, role: Role) -> PruningError:
    return PruningError(
        message(
            f"scoring by weights needs a tensor that {role} the channels of group {group.name!r}",
            f"bindings {[(b.name, b.axis, b.role) for b in group.bindings]}",
            "channels that no weight makes",
            "leave the group out with ignore=, or use a criterion that watches activations",
        )
    )
