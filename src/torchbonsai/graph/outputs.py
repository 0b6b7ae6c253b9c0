"""What a forward returns: its parts by name and position, which of them may be narrowed, and what stays of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from torchbonsai.core.errors import ConfigError, message
from torchbonsai.graph.call import tensors_within
from torchbonsai.graph.channel_graph import FROZEN, Bools, Ints, Output
from torchbonsai.graph.labels import LabelSpace, Shadow
from torchbonsai.graph.record import Log

Narrow = bool | int | str | Iterable[int | str]
"""Outputs that may lose channels: all (True), none (False), or some by name or position."""


def parts(out: Any) -> list[tuple[str | None, Any]]:
    """(name, value) of each thing that a forward returns; a single tensor or object is one thing without a name."""
    if isinstance(out, Mapping):
        return [(str(k), v) for k, v in out.items()]
    if isinstance(out, tuple) and hasattr(out, "_fields"):
        return list(zip(out._fields, out, strict=True))
    if isinstance(out, list | tuple):
        return [(None, v) for v in out]
    if dataclasses.is_dataclass(out):
        return [(f.name, getattr(out, f.name)) for f in dataclasses.fields(out)]
    return [(None, out)]


def held(out: Any, narrow: Narrow) -> list[torch.Tensor]:
    """The tensors of `out` that must stay whole."""
    if isinstance(narrow, bool):
        return [] if narrow else tensors_within(out)
    named = _named(narrow)
    values = [v for k, (name, v) in enumerate(parts(out)) if k not in named and name not in named]
    return tensors_within(values)


def _named(narrow: Any) -> set[Any]:
    return set(narrow) if isinstance(narrow, Iterable) and not isinstance(narrow, str) else {narrow}


def check(out: Any, narrow: Narrow) -> None:
    """Raises ConfigError where `narrow` names what the forward does not return."""
    known = parts(out)
    there = {*range(len(known)), *(name for name, _ in known if name is not None)}
    missing = set() if isinstance(narrow, bool) else _named(narrow) - there
    if missing:
        names = [name for name, _ in known if name is not None]
        raise ConfigError(
            message(
                "prune_outputs= must be True, or name outputs of the model or their positions.",
                repr(sorted(missing, key=str)),
                "a typing error, or an output that only training has",
                f"the model returns {len(known)} in eval mode, names: {names}",
            )
        )


def tie_blocks(space: LabelSpace, labels: Ints) -> None:
    """Channels that lie along several axes of an output leave at the same positions of the last one everywhere.

    What stays of an output is said axis by axis.
    """
    for axis in range(labels.ndim - 1):
        space.unify(labels, np.broadcast_to(labels.take([0], axis=axis), labels.shape))


def note_returned(log: Log, out: Any) -> list[torch.Tensor]:
    """Write what the returned tensors carry into `log`; returns them."""
    returned = tensors_within(out)
    log.returned = tuple(getattr(t, "_bonsai", Shadow()).fields for t in returned)
    log.returned_by = frozenset(k for t in returned for k in getattr(t, "_bonsai_origins", ()))
    return returned


def outputs_of(log: Log, number: Ints, component: Ints) -> tuple[Output, ...]:
    """The atoms along the axes of each returned tensor. number: (components,) atoms; component: (labels,)."""
    return tuple(
        {axes: atoms for axes, labels in fields if ((atoms := number[component[labels]]) != FROZEN).any()}
        for fields in log.returned
    )


def kept_positions(output: Output, kept: Bools) -> dict[int, Ints]:
    """Axis -> the positions that stay, for every axis of a returned tensor that is narrowed. `kept`: (n_atoms,)."""
    with_frozen = np.append(kept, True)
    found: dict[int, Ints] = {}
    for axes, atoms in output.items():
        stays = with_frozen[atoms]
        for k, axis in enumerate(axes):
            there = stays.any(axis=tuple(i for i in range(stays.ndim) if i != k))
            if not there.all():
                found[axis] = np.flatnonzero(there)
    return found


def narrowed(tensors: list[torch.Tensor], kept: Iterable[Mapping[int, Any]]) -> list[torch.Tensor]:
    """The kept positions of each returned tensor; all of those that `kept` says nothing of."""
    rows = [*kept, *({} for _ in tensors)]
    found = []
    for tensor, axes in zip(tensors, rows, strict=False):
        for axis, positions in axes.items():
            tensor = tensor.index_select(axis, torch.as_tensor(positions, device=tensor.device))
        found.append(tensor)
    return found
