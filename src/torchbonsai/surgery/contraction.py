"""A contraction whose op takes a bias: which of its arguments is the input, the weight, the bias, and what it pads.

The same reading serves a recorded op, whose arguments are shadows, and one that runs, whose arguments are tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_MATRIX = {"addmm": (1, 2, 0), "mm": (0, 1, None), "linear": (0, 1, 2)}
"""Op -> the places of input, weight and bias among its arguments."""
_CONVOLUTIONS = frozenset({"convolution", "_convolution", "convolution_overrideable"})


@dataclass(frozen=True, eq=False)
class Contraction:
    """input, weight, bias: arguments of the op; bias None where it got none. place: of the input among the arguments.

    axis: of the input, whose positions are summed, in `groups` equal parts; contracts: the axis of the weight *as the
    op gets it*. padding: zeros at either end of every spatial axis.
    """

    input: Any
    weight: Any
    bias: Any
    place: int
    axis: int
    contracts: int
    groups: int = 1
    padding: tuple[int, ...] = ()


def contraction(op: str, args: Sequence[Any]) -> Contraction | None:
    """What the op ("aten.addmm.default") does with its positional arguments; None where it is no such contraction.

    None of a transposed convolution too: how much of its kernel an output sees depends on the place.
    """
    name = op.split(".")[1] if op.startswith("aten.") else ""
    if name in _CONVOLUTIONS:
        if bool(args[6]):
            return None
        padding = tuple(args[4])
        return Contraction(args[0], args[1], args[2], 0, 1, 1, int(args[8]), padding if any(padding) else ())
    if name not in _MATRIX:
        return None
    x, w, b = _MATRIX[name]
    if len(args) > max(x, w, b or 0) + 1:  # alpha or beta
        return None
    bias = args[b] if b is not None and len(args) > b else None
    return Contraction(args[x], args[w], bias, x, -1, 1 if name == "linear" else 0)
