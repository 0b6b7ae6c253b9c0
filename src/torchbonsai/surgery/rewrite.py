"""Equal but faster programs: norms folded into the convolution before them, channels last, half precision.

Each takes a `Program` and changes its list of ops; equal up to rounding, and half precision up to its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchbonsai.graph.rules.per_channel import BATCH_NORMS
from torchbonsai.surgery.program import Op, Program, Ref, reading

aten = torch.ops.aten
_RESHAPED: dict[Any, Any] = {aten.view.default: aten.reshape.default, aten._unsafe_view.default: aten.reshape.default}
_CONTRACTIONS = frozenset({aten.convolution.default, aten.mm.default, aten.addmm.default, aten.bmm.default})
_PASSING = frozenset(
    {
        *(aten.relu.default, aten.hardtanh.default, aten.clamp.default, aten.leaky_relu.default, aten.silu.default),
        *(aten.add.Tensor, aten.mul.Tensor, aten.constant_pad_nd.default, aten.cat.default),
        *(aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.t.default, aten.permute.default),
        *(aten.slice.Tensor, aten.select.int, aten.transpose.int, aten.alias.default, aten.detach.default),
        *(aten.unsqueeze.default, aten.squeeze.dim, aten.split.Tensor, aten.expand.default, aten.clone.default),
        *(aten.max_pool2d_with_indices.default, aten.avg_pool2d.default),
    }
)


def fold_norms(program: Program) -> None:
    """A norm with fixed statistics that alone reads a convolution becomes part of that convolution."""
    readers, made = program.readers(), {slot: op for op in program.ops for slot in op.writes}
    folded: dict[int, list[Op]] = {}
    gone: set[int] = set()
    for op in program.ops:
        statistics = _fixed_statistics(op)
        before = made.get(op.args[0].slot) if statistics else None
        if before is None or before.func is not aten.convolution.default or before.args[6]:
            continue
        if readers[before.writes[0]] != [op] or any(slot in readers for slot in op.writes[1:]):
            continue
        folded[id(op)] = _folded(program, before, op, statistics)
        gone.add(id(before))
    program.ops = [o for op in program.ops if id(op) not in gone for o in folded.get(id(op), [op])]


def _fixed_statistics(op: Op) -> tuple[Any, ...]:
    """(weight, bias, mean, variance, eps) of a batch norm in eval mode; empty for all else."""
    name = op.func._schema.name if isinstance(op.func, torch._ops.OpOverload) else ""
    if name not in BATCH_NORMS or op.kwargs or not isinstance(op.args[3], Ref) or not isinstance(op.args[4], Ref):
        return ()
    training = next((a for a in op.args if isinstance(a, bool)), False)
    floats = [a for a in op.args if isinstance(a, float)]
    return () if training or len(floats) != 2 else (*op.args[1:5], floats[1])


def _folded(program: Program, conv: Op, norm: Op, statistics: tuple[Any, ...]) -> list[Op]:
    weight, conv_bias = conv.args[1], conv.args[2]
    filters = program.like[weight.slot]
    vector = (filters[0], filters[1][:1])
    scale, shift, scaled = program.fresh(vector), program.fresh(vector), program.fresh(filters)
    return [
        Op(_scale_and_shift, (*statistics, conv_bias), {}, (scale, shift)),
        Op(_scale_filters, (weight, Ref(scale)), {}, (scaled,)),
        Op(conv.func, (conv.args[0], Ref(scaled), Ref(shift), *conv.args[3:]), conv.kwargs, norm.writes[:1]),
    ]


def _scale_and_shift(
    weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, eps: float, before: Tensor | None
) -> tuple[Tensor, Tensor]:
    """norm(x + before) = x * scale + shift, worked out in float64."""
    scale = (var.double() + eps).rsqrt()
    if weight is not None:
        scale = scale * weight.double()
    shift = (0 if before is None else before.double()) - mean.double()
    shift = shift * scale + (0 if bias is None else bias.double())
    return scale.to(mean.dtype), shift.to(mean.dtype)


def _scale_filters(weight: Tensor, scale: Tensor) -> Tensor:
    return weight * scale.reshape(-1, *[1] * (weight.dim() - 1)).to(weight.dtype)


def channels_last(program: Program) -> None:
    """2-d convolutions read and write channels last; views that this forbids become copies."""
    ops: list[Op] = []
    for op in program.ops:
        if op.func is aten.convolution.default and len(op.args[3]) == 2:
            laid = program.fresh(program.like[op.args[1].slot])
            ops.append(Op(_laid_out, (op.args[1],), {}, (laid,), aliases=True))
            op = Op(op.func, (op.args[0], Ref(laid), *op.args[2:]), op.kwargs, op.writes)
        func = _RESHAPED.get(op.func)
        ops.append(op if func is None else Op(func, op.args, op.kwargs, op.writes, aliases=True))
    program.ops = ops


def _laid_out(weight: Tensor) -> Tensor:
    return weight.contiguous(memory_format=torch.channels_last)


def half_precision(program: Program, low: torch.dtype) -> None:
    """Contractions in `low`, and what only passes their results on; everything else in float32, as under autocast."""
    _Half(program, low).rewrite()


class _Half:
    def __init__(self, program: Program, low: torch.dtype) -> None:
        self.program, self.low = program, low
        self.ops: list[Op] = []
        self.is_low: set[int] = set()
        self.casts: dict[tuple[int, torch.dtype], int] = {}

    def rewrite(self) -> None:
        """In place; the output stays float32."""
        program = self.program
        for op in program.ops:
            floats = [s for s in op.reads if program.like[s][0] == torch.float32]
            low = op.func in _CONTRACTIONS or (op.func in _PASSING and bool(floats) and self.is_low.issuperset(floats))
            self.ops.append(reading(op, {s: self._as(s, self.low if low else torch.float32) for s in floats}))
            if low:
                self.is_low.update(s for s in op.writes if program.like[s][0] == torch.float32)
        program.output = self._as(program.output, torch.float32)
        program.ops = self.ops

    def _as(self, slot: int, dtype: torch.dtype) -> int:
        """The slot, or one that holds its value in `dtype`."""
        if (slot in self.is_low) == (dtype == self.low):
            return slot
        if (slot, dtype) not in self.casts:
            made = self.casts[slot, dtype] = self.program.fresh(self.program.like[slot])
            self.ops.append(Op(_cast, (Ref(slot), dtype), {}, (made,)))
            if dtype == self.low:
                self.is_low.add(made)
        return self.casts[slot, dtype]


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype)
