"""Latency of any selection, predicted: measured layers by their widths, and the rest by the memory that ops take.

    ms(kept) = correction · (scale · Σ_layers surface(inputs, outputs) + rate · bytes(kept))

bytes: of the outputs of all ops (norms, activations, additions and pooling are bound by memory). `calibrate` sets
scale and rate so that the dense network takes what was measured for it as a whole; `correct` sets the correction by
what a small network was measured to take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from torchbonsai.cost.extents import DistinctExtents, Terms
from torchbonsai.cost.layer import Layer
from torchbonsai.cost.surface import Surface
from torchbonsai.cost.table import LayerTable, Point
from torchbonsai.cost.tape import Labelled, Tape
from torchbonsai.graph.channel_graph import Bools, ChannelGraph, Ints

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Placed:
    """A layer in the network: its surface, and the numbers of the extents that are its widths (-1: fixed)."""

    surface: Surface
    inputs: int
    outputs: int


class LatencyModel:
    """`ChannelGraph`, a `Tape` of the same network and a `LayerTable` -> milliseconds of any selection."""

    def __init__(self, graph: ChannelGraph, tape: Tape, table: LayerTable) -> None:
        """Layers that the table lacks are measured. Raises TraceError where the tape is of other ops than the trace."""
        self.graph, self.table = graph, table
        labelled = Labelled(graph, tape)
        self._extents = DistinctExtents(graph.n_atoms)
        self._layers = self._placed(labelled, tape)
        self._bytes = Terms(graph.n_atoms)
        for block in tape.blocks:
            extents = labelled.extents(labelled.records[block.born].outputs[block.output])
            self._bytes.add(block.bytes // max(prod(e.size for e in extents), 1), extents)
        self._counts, self._fixed = self._extents.compiled()
        self.scale, self.rate, self.correction = 1.0, 0.0, 1.0

    @property
    def dense(self) -> float:
        """Milliseconds of the network as it is."""
        return self.of(np.ones(self.graph.n_atoms, dtype=bool))

    def calibrate(self, dense_ms: float) -> None:
        """Make the dense network take `dense_ms`: what the layers do not account for goes with the memory."""
        kept = np.ones(self.graph.n_atoms, dtype=bool)
        layers, size = sum(self._layer_ms(kept)), sum(self._bytes.of(kept))
        self.correction = 1.0
        if layers > dense_ms or not size:
            self.scale, self.rate = dense_ms / layers if layers else 1.0, 0.0
        else:
            self.scale, self.rate = 1.0, (dense_ms - layers) / size

    def correct(self, kept: Bools, measured_ms: float) -> None:
        """Make this selection take `measured_ms`; others near it are off by about as much."""
        self.correction *= measured_ms / self.of(kept)

    def of(self, kept: Bools) -> float:
        """Milliseconds when exactly the atoms with `kept[atom]` stay. kept: (n_atoms,) bool."""
        rest = self.rate * sum(self._bytes.of(kept)) if self.rate else 0.0
        return self.correction * (self.scale * sum(self._layer_ms(kept)) + rest)

    def marginal(self) -> Marginal:
        """Times as groups get narrower one by one."""
        indicator = np.zeros((self.graph.n_atoms, len(self.graph.groups)))
        indicator[np.arange(self.graph.n_atoms), self.graph.group_of_atom] = 1.0
        share = indicator / np.maximum(indicator.sum(0), 1.0)
        whole = np.ones(self.graph.n_atoms, dtype=bool)
        rest = np.zeros(len(self.graph.groups))
        if self.rate:
            dense = sum(self._bytes.of(whole))
            for g, group in enumerate(self.graph.groups):
                without = whole.copy()
                without[group.offset : group.offset + group.size] = False
                rest[g] = self.rate * (dense - sum(self._bytes.of(without))) / group.size
        return Marginal(self._layers, np.asarray(self._counts @ share), self._fixed.astype(float), self.scale, rest)

    def _layer_ms(self, kept: Bools) -> list[float]:
        counts = (self._counts @ np.asarray(kept, dtype=np.int64) + self._fixed).tolist()
        return [_ms(p, counts) for p in self._layers]

    def _placed(self, labelled: Labelled, tape: Tape) -> list[_Placed]:
        placed = []
        for number, (layer, operand) in tape.layers.items():
            record = labelled.records[number]
            last = 1 if layer.kind == "conv" else -1
            ins = labelled.along(record.inputs[operand].fields, 1 if last == 1 else _last(labelled, number, operand))
            outs = labelled.along(record.outputs[0], 1 if last == 1 else len(record.shapes[0]) - 1)
            surface = Surface(self.table, layer, free_inputs=_free(ins), free_outputs=_free(outs))
            placed.append(_Placed(surface, self._number(ins), self._number(outs)))
        wanted: dict[Layer, list[Point]] = {}
        for p in placed:
            wanted.setdefault(p.surface.layer, []).extend(p.surface.points())
        self.table.measure(wanted)
        for p in placed:
            p.surface.fill()
        return placed

    def _number(self, atoms: Ints | None) -> int:
        return -1 if atoms is None else self._extents.number(atoms)


class Marginal:
    """What it saves to make one group narrower, given how wide the others are by now.

    shares: (extents, groups) positions of an extent that each channel of a group holds, on average.
    """

    def __init__(self, layers: list[_Placed], shares: Floats, fixed: Floats, scale: float, rest: Floats) -> None:
        self._layers, self._shares, self._scale, self._rest = layers, shares, scale, rest
        self._counts = fixed
        touched = [{int(e) for e in np.flatnonzero(shares[:, g])} for g in range(shares.shape[1])]
        self._of = [[p for p in layers if p.inputs in t or p.outputs in t] for t in touched]

    def start(self, widths: Ints) -> None:
        """Every group g is `widths[g]` wide."""
        self._counts = self._counts + self._shares @ widths

    def saved(self, group: int, channels: int) -> float:
        """Milliseconds that go when `group` loses so many more channels."""
        after = self._counts - self._shares[:, group] * channels
        gone = sum(_ms(p, self._counts) - _ms(p, after) for p in self._of[group])
        return self._scale * gone + float(self._rest[group]) * channels

    def narrow(self, group: int, channels: int) -> None:
        """`group` has lost them."""
        self._counts = self._counts - self._shares[:, group] * channels


def _ms(placed: _Placed, counts: Sequence[float] | Floats) -> float:
    layer = placed.surface.layer
    inputs = layer.inputs if placed.inputs < 0 else counts[placed.inputs]
    outputs = layer.outputs if placed.outputs < 0 else counts[placed.outputs]
    return placed.surface.ms(round(inputs), round(outputs))


def _free(atoms: Ints | None) -> bool:
    return atoms is not None and bool((atoms >= 0).any())


def _last(labelled: Labelled, number: int, operand: int) -> int:
    """The last axis of an operand, by the axes of its labels: that of a matrix is 1."""
    fields = labelled.records[number].inputs[operand].fields
    return max((axis for field in fields for axis in field.axes), default=1)
