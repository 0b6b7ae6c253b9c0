"""The channel graph: which slices of which tensors must leave together. Names, axes, atoms, groups; no tensors.

An *atom* is the smallest thing that can be removed: a set of (parameter or buffer, axis, index) slices that leave
together. A *group* is the atoms that are made by the same axes of the same parameters: the channels of a layer, or
of all layers that a residual stream ties together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Selection = Mapping[str, Bools]
"""Group name -> (n atoms,) bool, True = keep. A group that is not named stays whole."""

Way = Literal["whole", "inside"]
Blocks = Mapping[str, Way]
"""Module path -> where channels lie in equal blocks (attention heads, groups of a group norm, maxout): whole blocks
leave, or the same positions inside every block."""

Role = Literal["produces", "consumes", "follows"]
Output = Mapping[tuple[int, ...], Ints]
"""Of a tensor that the forward returns: axes -> atoms along them, FROZEN where a position always stays."""

FROZEN = -1


@dataclass(frozen=True)
class Source:
    """Where in the user's code an op was called."""

    op: str
    module: str
    file: str
    line: int
    code: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.file else "?"
        inside = f" in module {self.module!r}" if self.module else ""
        op = f"{self.op} " if self.op else ""
        return f"{op}at {where}{inside}" + (f": {self.code}" if self.code else "")


@dataclass(frozen=True)
class Frozen:
    """Slices that cannot be removed, and why. `members`: "name axis" of every slice axis concerned."""

    name: str
    size: int
    reason: str
    source: Source | None = None
    members: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inexact:
    """Removing these atoms changes a number that the masked reference keeps (a statistic over channels, a width)."""

    reason: str
    source: Source | None = None


@dataclass(frozen=True, eq=False)
class Binding:
    """One axis of one parameter or buffer along which atoms of a group lie.

    role: "produces": the output axis of a weight that is contracted (filters); "consumes": its contracted axis;
    "follows": everything else that goes with the channel (biases, norms, depthwise weights, statistics).
    index: (size of the axis,) the atom's index within its group, -1 where the position is not the group's.
    """

    name: str
    axis: int
    role: Role
    index: Ints


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """n atoms made by the same producing axes. `offset`: the group's atoms are offset … offset + size - 1."""

    name: str
    size: int
    offset: int
    bindings: tuple[Binding, ...]
    inexact: tuple[Inexact, ...] = ()

    def bound(self, role: Role) -> tuple[Binding, ...]:
        """The bindings of one role, in forward order."""
        return tuple(b for b in self.bindings if b.role == role)


@dataclass(frozen=True, eq=False)
class Product:
    """The MACs of one contraction: `constant` times, for each of `extents`, how many of its entries are kept.

    extents: arrays of atoms, one entry per position of an axis (FROZEN = a position that always stays).
    """

    op: str
    module: str
    constant: int
    extents: tuple[Ints, ...]


@dataclass(frozen=True, eq=False)
class Site:
    """A place where a group's activations can be watched: the output of op number `op_index` of the eval forward.

    It is the output of the last pointwise op before a pooling or a contraction. axis: the activation's channel axis;
    atoms: (size of that axis,) global atom numbers, FROZEN where none.
    """

    op_index: int
    op: str
    module: str
    axis: int
    atoms: Ints


@dataclass(frozen=True, eq=False)
class ChannelGraph:
    """What `tb.trace` returns. Atoms are numbered 0 … n_atoms - 1, group after group.

    shapes: parameter and buffer name -> shape. axes: name -> axis -> (size,) global atom numbers, FROZEN where the
    position always stays; an axis that is wholly frozen is left out. parameters: the names in `shapes` that are
    parameters (tied names share one entry in `aliases`: name -> first name). pointers: buffer of positions -> the atoms
    along the axis that it points into. outputs: of every tensor that the first eval pass returned; all empty unless
    outputs may be narrowed.
    """

    groups: tuple[ChannelGroup, ...]
    frozen: tuple[Frozen, ...]
    shapes: Mapping[str, tuple[int, ...]]
    axes: Mapping[str, Mapping[int, Ints]]
    parameters: frozenset[str]
    products: tuple[Product, ...]
    sites: tuple[Site, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    unreached: tuple[str, ...] = ()
    pointers: Mapping[str, Ints] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    outputs: tuple[Output, ...] = ()
    evidence: Any = field(default=None, repr=False)
    """What the trace saw, op by op (`graph.evidence.Evidence`): numbers only, kept for the proof."""

    @property
    def n_atoms(self) -> int:
        """How many atoms can be removed; the dense value of `Budget(channels=)`."""
        return sum(g.size for g in self.groups)

    @cached_property
    def by_name(self) -> dict[str, ChannelGroup]:
        """Group name -> group."""
        return {g.name: g for g in self.groups}

    @cached_property
    def group_of_atom(self) -> Ints:
        """(n_atoms,) the number of the group that each atom belongs to."""
        return np.repeat(np.arange(len(self.groups)), [g.size for g in self.groups]).astype(np.int64)

    def keep(self, selection: Selection) -> Bools:
        """(n_atoms,) bool, True = kept; groups that `selection` leaves out stay whole."""
        kept = np.ones(self.n_atoms, dtype=bool)
        for name, mask in selection.items():
            group = self.by_name[name]
            kept[group.offset : group.offset + group.size] = mask
        return kept

    def kept_positions(self, kept: Bools) -> dict[str, dict[int, Ints]]:
        """For every tensor and axis that is narrowed, the positions that stay, ascending. `kept`: (n_atoms,)."""
        with_frozen = np.append(kept, True)  # FROZEN = -1 reads the last entry
        narrowed: dict[str, dict[int, Ints]] = {}
        for name, axes in self.axes.items():
            for axis, atoms in axes.items():
                stays = with_frozen[atoms]
                if not stays.all():
                    narrowed.setdefault(name, {})[axis] = np.flatnonzero(stays)
        return narrowed

    def explain(self) -> str:
        """Groups, sizes, what is frozen, by which op at which line."""
        from torchbonsai.graph.explain import explain

        return explain(self)
