"""What the tracer writes down of a forward pass: one record an op, enough to prove another pass against it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torchbonsai.graph.channel_graph import Ints
from torchbonsai.graph.labels import Fields, Shadow

Shape = tuple[int, ...]
Move = tuple[Ints, tuple[Ints, ...]]
"""(position ids, the label arrays that they point into): where each element of a field came from."""


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

    blocks: do whole blocks of channels leave at this op, or the same positions inside every block (see `Blocks`)? Empty
    where its channels lie in no blocks; else module says which one's forward was running. scale: what the op multiplies
    by without being told, if it does.

    moves: per output and field, where each element came from (layout ops only). denied: its rule raised. answer: what
    another pass may find again (`graph.memory.Answer`).
    """

    name: str
    kind: str = ""
    inputs: tuple[Shadow, ...] = ()
    shapes: tuple[Shape, ...] = ()
    outputs: tuple[Fields, ...] = ()
    scalars: tuple[Any, ...] = ()
    values: Any = None
    moves: tuple[tuple[Move, ...], ...] = ()
    denied: bool = False
    variant: str = ""
    fresh: list[Ints] = field(default_factory=list)
    consumed: list[Consumption] = field(default_factory=list)
    pointers: list[tuple[str, Ints]] = field(default_factory=list)
    products: list[tuple[int, tuple[Ints, ...], str]] = field(default_factory=list)
    blocks: str = ""
    module: str = ""
    scale: float = 0.0
    answer: Any = None


@dataclass(eq=False)
class Log:
    """One forward pass in one mode on one example, number `example`.

    doubled: on its batch repeated once. crop: on so many rows and columns of it. hollow: activations had sizes, but no
    values (see graph/hollow.py). note: why it could not be run. returned: the fields of the tensors that came out.
    """

    training: bool
    example: int = 0
    records: list[OpRecord] = field(default_factory=list)
    doubled: bool = False
    crop: int | None = None
    hollow: bool = False
    note: str | None = None
    returned: tuple[Fields, ...] = ()
