"""The time of one layer as a function of its widths: measured at a grid, piecewise bilinear between."""

from __future__ import annotations

from bisect import bisect_left
from itertools import product
from math import lcm

from torchbonsai.cost.layer import Layer
from torchbonsai.cost.table import LayerTable, Point

SHARES = (0.125, 0.25, 0.5, 1.0)
"""Of a layer's width: where it is timed. Between them its time is interpolated."""


class Surface:
    """The time of one layer over its widths: measured at a grid, piecewise bilinear between, narrower ones in line.

    A width between two multiples costs what the next multiple above does, times the device's penalty for odd widths.
    """

    def __init__(self, table: LayerTable, layer: Layer, *, free_inputs: bool, free_outputs: bool) -> None:
        self.table, self.layer = table, layer
        self.steps = tuple(lcm(table.multiple_for(n, 2), layer.groups or 1) for n in (layer.inputs, layer.outputs))
        free_inputs, free_outputs = (
            (free_inputs, free_outputs) if layer.groups else (False, free_outputs or free_inputs)
        )
        self.inputs = self._axis(layer.inputs, self.steps[0], free_inputs)
        self.outputs = self._axis(layer.outputs, self.steps[1], free_outputs)
        self.grid: list[list[float]] = []
        self._known: dict[Point, float] = {}

    def points(self) -> list[Point]:
        """Where the layer has to be timed."""
        return [self._point(i, o) for i, o in product(self.inputs, self.outputs)]

    def fill(self) -> None:
        """Read the table; times never fall as a layer gets wider, so that noise cannot make a wider network faster."""
        grid = [[self.table.ms(self.layer, *self._point(i, o)) for o in self.outputs] for i in self.inputs]
        for a, b in product(range(len(self.inputs)), range(len(self.outputs))):
            below = [grid[a - 1][b]] if a else []
            below += [grid[a][b - 1]] if b else []
            grid[a][b] = max(grid[a][b], *below, 0.0)
        self.grid = grid

    def ms(self, inputs: int, outputs: int) -> float:
        """Milliseconds at these widths; 0 where one of them is."""
        if inputs <= 0 or outputs <= 0:
            return 0.0
        if (inputs, outputs) not in self._known:
            self._known[inputs, outputs] = self._ms(inputs, outputs)
        return self._known[inputs, outputs]

    def _ms(self, inputs: int, outputs: int) -> float:
        depthwise = not self.layer.groups
        i, o = (self.inputs[0], max(inputs, outputs)) if depthwise else (inputs, outputs)
        sides = ((i, self.inputs, self.steps[0]), (o, self.outputs, self.steps[1]))
        between = self._between(*(_up(width, axis, step) for width, axis, step in sides))
        odd = [width for width, axis, step in sides if width % step and width != axis[-1]]
        return between * max((self.table.penalty(w) for w in odd), default=1.0)

    def _between(self, inputs: float, outputs: float) -> float:
        a, s = _place(self.inputs, inputs)
        b, t = _place(self.outputs, outputs)
        left, right = self.grid[a], self.grid[min(a + 1, len(self.inputs) - 1)]
        c = min(b + 1, len(self.outputs) - 1)
        time = (1 - s) * ((1 - t) * left[b] + t * left[c]) + s * ((1 - t) * right[b] + t * right[c])
        return max(time, 0.0)

    def _axis(self, dense: int, step: int, free: bool) -> list[int]:
        wanted = SHARES if free else (1.0,)
        return sorted({min(max(round(share * dense / step), 1) * step, dense) for share in wanted} | {dense})

    def _point(self, inputs: int, outputs: int) -> Point:
        return (outputs, outputs) if not self.layer.groups else (inputs, outputs)


def _up(width: int, axis: list[int], step: int) -> int:
    """The next multiple, but not above the dense width."""
    return min(-(-width // step) * step, axis[-1])


def _place(axis: list[int], at: float) -> tuple[int, float]:
    """(index of the segment, how far along it); below the first point the first segment goes on, down to nothing."""
    if len(axis) == 1:
        return 0, 0.0
    k = min(max(bisect_left(axis, at) - 1, 0), len(axis) - 2)
    return k, max((at - axis[k]) / (axis[k + 1] - axis[k]), -axis[k] / (axis[k + 1] - axis[k]))
