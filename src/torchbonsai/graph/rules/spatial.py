"""Ops that mix positions of the last axes and treat every channel before them alike and alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from torchbonsai.graph.call import Call
from torchbonsai.graph.labels import Field
from torchbonsai.graph.rules.registry import rule

_POOLS = "max_pool{d}d_with_indices max_pool{d}d avg_pool{d}d adaptive_max_pool{d}d adaptive_avg_pool{d}d \
_adaptive_avg_pool{d}d fractional_max_pool{d}d max_unpool{d}d reflection_pad{d}d replication_pad{d}d \
mkldnn_max_pool{d}d"
_RESIZE = {
    1: "upsample_nearest1d _upsample_nearest_exact1d upsample_linear1d",
    2: "upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d upsample_bicubic2d "
    "_upsample_bilinear2d_aa _upsample_bicubic2d_aa",
    3: "upsample_nearest3d _upsample_nearest_exact3d upsample_trilinear3d",
}


def _sliding(dims: int) -> None:
    names = [f"aten::{n}" for n in (_POOLS.format(d=dims) + " " + _RESIZE[dims]).split()]

    @rule(*names, kind="spatial")
    def spatial(call: Call) -> None:
        x = call.tensors[0]
        first = x.dim() - dims
        averages = "avg_pool" in call.name and "adaptive" not in call.name
        smoothed = [_smooth(call, f, first, dims) for f in call.fields(x) if averages and min(f.axes) >= first]
        if not any(smoothed):
            call.pin(x, range(first, x.dim()), f"{call.name} slides over the axis")
        operands = [(t, tuple(range(x.dim()))) for t in call.tensors if t.dim() == x.dim()]
        same = [(t, ls) for t, ls in operands if t.shape == x.shape]
        fields = tuple(f for f in call.join(same).fields if max(f.axes) < first)
        for out in call.outputs:
            call.give(out, (*fields, *(w for w in smoothed if w is not None)))


def _smooth(call: Call, channels: Field, first: int, dims: int) -> Field | None:
    """Averages of neighbouring channels, one for each (as local response norm takes them): they pass, inexact.

    None where the window moves by more than one channel, or does not cover one axis alone.
    """
    if len(channels.axes) != 1:
        return None
    at = channels.axes[0] - first
    kernel = call.arg(1, "kernel_size")
    window, step = _spread(kernel, dims)[at], _spread(call.arg(2, "stride") or kernel, dims)[at]
    size = call.out.shape[channels.axes[0]]
    start = window // 2 - _spread(call.arg(3, "padding", 0), dims)[at]
    if step != 1 or start < 0 or start + size > channels.labels.size:
        return None
    call.inexact(channels.labels, f"{call.name} averages neighbouring channels")
    return Field(channels.axes, channels.labels[start : start + size])


def _spread(value: Any, dims: int) -> list[int]:
    """One number for every pooled axis."""
    listed = [int(v) for v in value] if isinstance(value, list | tuple) else [int(value)]
    return listed * dims if len(listed) == 1 else listed


for _d in (1, 2, 3):
    _sliding(_d)


@rule("aten::grid_sampler_2d", "aten::grid_sampler_3d", "aten::cudnn_grid_sampler", kind="spatial")
def grid_sampler(call: Call) -> None:
    """x (n, c, *s), grid (n, *t, dims): every channel is read at the same places."""
    x, grid = call.tensors[:2]
    call.pin(x, [a for a in range(x.dim()) if a != 1], f"{call.name} reads along the axis")
    call.freeze(grid, f"{call.name} takes its coordinates from it")
    call.give(call.out, tuple(f for f in call.fields(x) if f.axes == (1,)))


@rule("aten::im2col", kind="spatial")
def im2col(call: Call) -> None:
    """x (n, c, h, w) -> (n, c * kernel, positions): each channel becomes `kernel` rows in a row."""
    x = call.tensors[0]
    kernel = int(np.prod(call.args[1]))
    channel = x.dim() - 3
    call.pin(x, [a for a in range(x.dim()) if a != channel], f"{call.name} slides over the axis")
    call.give(call.out, tuple(Field((channel,), np.repeat(f.labels, kernel)) for f in call.fields(x)))
