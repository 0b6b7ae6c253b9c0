"""What the tracer writes down of a forward pass: one record an op, enough to prove another pass against it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torchbonsai.graph.channel_graph import Ints
from torchbonsai.graph.labels import UNKNOWN, Fields, Shadow

Shape = tuple[int, ...]
Move = tuple[Ints, tuple[Ints, ...]]
"""(position ids, the label arrays that they point into): where each element of a field came from."""
_ELEMENTWISE = frozenset({"contraction", "per_channel", "pointwise", "spatial", "reduction"})
"""Kinds whose rules look at positions one by one, never at how many there are."""
_RENAMING = frozenset(
    f"aten.{name}"
    for name in "permute.default transpose.int t.default unsqueeze.default squeeze.dim select.int".split()
)
"""Ops that only give axes other numbers, or drop some, whatever their sizes are."""

_BY_EFFECT = frozenset({"layout", "contraction", "per_channel", "normalising"})
_PLAIN = frozenset({bool, int, float, str, type(None)})


@dataclass(frozen=True, eq=False, slots=True)
class Consumption:
    """A contraction of labelled axes: where a gate has to sit.

    operand: which tensor argument (in flattened order) is multiplied; axes: its axes that the labels lie along;
    weight: the parameter whose axis `weight_axis` is contracted, where it is one untransformed parameter.
    """

    operand: int
    axes: tuple[int, ...]
    labels: Ints
    weight: str | None
    weight_axis: int


@dataclass(eq=False, slots=True)
class OpRecord:
    """One op of the pass. pointers: buffers whose values are positions along the labels given.

    arguments: tensors as their shadows, lists as tuples, all else as it is. made: the shadows of the outputs. moves:
    per output and field, where each element came from (layout ops only). denied: its rule raised. pins: its rule
    changed what an input carries. origins: for each input, the numbers of the ops, other than layout ops, whose outputs
    it rearranges.

    blocks: do whole blocks of channels leave at this op, or the same positions inside every block (see `Blocks`)? Empty
    where its channels lie in no blocks; else module says which one's forward was running. scale: what the op multiplies
    by without being told, if it does.
    """

    func: Any
    name: str
    kind: str = ""
    arguments: tuple[Any, ...] = ()
    inputs: tuple[Shadow, ...] = ()
    shapes: tuple[Shape, ...] = ()
    outputs: tuple[Fields, ...] = ()
    made: tuple[Shadow, ...] = ()
    values: Any = None
    moves: tuple[tuple[Move, ...], ...] = ()
    denied: bool = False
    variant: str = ""
    fresh: tuple[Ints, ...] = ()
    consumed: tuple[Consumption, ...] = ()
    pointers: tuple[tuple[str, Ints], ...] = ()
    products: tuple[tuple[int, tuple[Ints, ...], str], ...] = ()
    pins: bool = False
    origins: tuple[tuple[int, ...], ...] = ()
    blocks: str = ""
    module: str = ""
    scale: float = 0.0
    _carries: bool | None = None

    @property
    def scalars(self) -> tuple[Any, ...]:
        """The arguments that decide values. Sizes and positions are judged by their effect instead."""
        if self.kind == "creation":  # the value of a fill; its size is a list
            return tuple([a for a in self.arguments if isinstance(a, int | float)])
        if self.kind in _BY_EFFECT:
            return tuple([a for a in self.arguments if type(a) is float])
        flat: list[Any] = []
        _flatten(self.arguments, flat)
        return tuple(flat)

    @property
    def carries(self) -> bool:
        """Do its outputs carry labels of its inputs as they are, and is that all that its rule said?

        The same op on the same arguments then does the same for any sizes above one.
        """
        if self._carries is None:
            self._carries = self._only_carries()
        return self._carries

    def _only_carries(self) -> bool:
        bare = not self.inputs and not any(self.outputs)
        if not (self.kind in _ELEMENTWISE or self.name in _RENAMING or bare):
            return False
        if self.values is not None or self.denied or self.pins or self.fresh or self.pointers:
            return False
        if self.blocks or self.scale:
            return False
        if any(s is UNKNOWN or s.places for s in self.inputs):
            return False
        given = {id(f.labels) for s in self.inputs for f in s.fields}
        made = {id(f.labels) for s in self.made for f in s.fields}
        if self.name in _RENAMING and given != made:  # a labelled axis was read at one place, which is another one now
            return False
        return made <= given and not any(s.places for s in self.made)


def _flatten(values: Any, into: list[Any]) -> None:
    for value in values:
        kind = type(value)
        if kind in _PLAIN:
            into.append(value)
        elif kind is tuple:
            _flatten(value, into)


@dataclass(eq=False)
class Log:
    """One forward pass in one mode on one example, number `example`.

    doubled: on its batch repeated once. crop: on so many rows and columns of it. hollow: activations had sizes, but no
    values (see graph/hollow.py). note: why it could not be run. returned: the fields of the tensors that came out;
    returned_by: the numbers of the ops whose outputs these rearrange.
    """

    training: bool
    example: int = 0
    records: list[OpRecord] = field(default_factory=list)
    doubled: bool = False
    crop: int | None = None
    hollow: bool = False
    note: str | None = None
    returned: tuple[Fields, ...] = ()
    returned_by: frozenset[int] = frozenset()
