"""Running an op for the shape of its result alone: most of a pass is arithmetic whose values nobody looks at.

A pass that only follows labels needs sizes, strides and dtypes of activations, not their values. The costly ops are
answered here with tensors of the right form that all lie on one piece of memory of zeros per dtype and device;
everything else runs as it is. An op that reads values (`item`, `nonzero`, …) ends such a pass, and so does any error:
the pass is then run for real. What a hollow pass found is used only after a real pass of the small network agreed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

aten = torch.ops.aten
Answer = Callable[..., Any]
ANSWERS: dict[Any, Answer] = {}
"""Op overload -> (the op's own arguments) -> its result, or None where the op has to run."""


class ValuesNeeded(Exception):
    """The forward looks at values, which a hollow pass does not have."""


class Zeros:
    """Tensors of any shape on shared zeros."""

    def __init__(self) -> None:
        self._held: dict[tuple[torch.dtype, torch.device], torch.Tensor] = {}

    def like(self, x: torch.Tensor, shape: tuple[int, ...], stride: tuple[int, ...] | None = None) -> torch.Tensor:
        """A tensor of x's dtype and device; contiguous unless strides are given."""
        count = math.prod(shape)
        key = (x.dtype, x.device)
        held = self._held.get(key)
        if held is None or held.numel() < count:
            held = self._held[key] = torch.zeros(max(count, 1 << 20), dtype=x.dtype, device=x.device)
        empty = torch.empty(0, dtype=x.dtype, device=x.device)
        return empty.set_(held.untyped_storage(), 0, shape, stride if stride is not None else contiguous(shape))


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a contiguous tensor."""
    strides = [1] * len(shape)
    for k in range(len(shape) - 2, -1, -1):
        strides[k] = strides[k + 1] * shape[k + 1]
    return tuple(strides)


def plain(x: torch.Tensor) -> bool:
    """Laid out in the order of its axes, by its strides as they are.

    `is_contiguous` passes over axes of one element, whose strides decide what layout an op gives its output:
    (n, 1, h, w) can be contiguous and channels last at once.
    """
    return x.stride() == contiguous(x.shape)


def last(x: torch.Tensor) -> bool:
    """(n, c, h, w) whose channels lie innermost, by its strides as they are, and which is not plain as well."""
    return x.dim() == 4 and x.stride() == channels_last(x.shape) and not plain(x)


def channels_last(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a (n, c, *spatial) tensor whose channels lie innermost."""
    strides, step = [0] * len(shape), shape[1]
    strides[1] = 1
    for k in range(len(shape) - 1, 1, -1):
        strides[k] = step
        step *= shape[k]
    strides[0] = step
    return tuple(strides)


ZEROS = Zeros()


def answer(func: Any, args: Any, kwargs: Any) -> Any:
    """func(*args, **kwargs) in form, not in value; None where the op has to run.

    For ops on activations alone: parameters, and what is computed from them, keep their values. Raises ValuesNeeded.
    """
    known = ANSWERS.get(func)
    if known is not None:
        return known(*args, **kwargs)
    if torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags:
        raise ValuesNeeded(str(func))
    return None


def answers(*funcs: Any) -> Callable[[Answer], Answer]:
    """Register how the results of ops look."""

    def register(function: Answer) -> Answer:
        for func in funcs:
            ANSWERS[func] = function
        return function

    return register


@answers(
    *(
        getattr(aten, n).default
        for n in "relu silu gelu sigmoid hardsigmoid hardswish tanh leaky_relu elu mish".split()
    ),
    *(getattr(aten, n).default for n in "hardtanh clamp log exp sqrt rsqrt neg abs erf softplus log_sigmoid".split()),
    aten.pow.Tensor_Scalar,
)
def unary(x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor | None:
    """The form of x."""
    return ZEROS.like(x, x.shape) if plain(x) and x.is_floating_point() else None


@answers(
    *(getattr(aten, n).default for n in "relu_ silu_ sigmoid_ hardsigmoid_ hardswish_ tanh_ leaky_relu_ elu_".split()),
    *(getattr(aten, n).default for n in "hardtanh_ mish_ clamp_".split()),
)
def in_place(x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor | None:
    """x itself."""
    return x if x.is_floating_point() else None


@answers(*(getattr(aten, n).Tensor for n in ("add", "sub", "mul", "div")))
def binary(a: Any, b: Any, **_: Any) -> torch.Tensor | None:
    """The form of both broadcast together, where that is plain to see."""
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return unary(a) if isinstance(a, torch.Tensor) else None
    if a.dtype != b.dtype or not a.is_floating_point() or not (plain(a) and plain(b)):
        return None
    if a.shape == b.shape:
        return ZEROS.like(a, a.shape)
    return ZEROS.like(a, torch.broadcast_shapes(a.shape, b.shape))


@answers(*(getattr(aten, n).Tensor for n in ("add_", "sub_", "mul_", "div_")))
def binary_in_place(a: torch.Tensor, b: Any, **_: Any) -> torch.Tensor | None:
    """a itself; shapes that do not fit are left to the op, which says so."""
    fits = not isinstance(b, torch.Tensor) or a.shape == b.shape
    return a if fits and a.is_floating_point() else None


@answers(aten.convolution.default)
def convolution(
    x: torch.Tensor, w: torch.Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, extra: Any,
    groups: int,
) -> torch.Tensor | None:  # fmt: skip
    """(n, c, *s) -> (n, o, *t)."""
    spatial = x.dim() - 2
    if w.dim() != x.dim() or x.shape[1] != (w.shape[0] if transposed else w.shape[1] * groups):
        return None
    inner = not (plain(x) and plain(w))
    if inner and not last(x):
        return None
    sizes = [
        _slid(
            x.shape[2 + k], w.shape[2 + k], _at(stride, k), _at(padding, k), _at(dilation, k), _at(extra, k), transposed
        )
        for k in range(spatial)
    ]
    if min(sizes, default=1) < 1:
        return None
    shape = (x.shape[0], w.shape[1] * groups if transposed else w.shape[0], *sizes)
    return ZEROS.like(x, shape, channels_last(shape) if inner else None)


def _at(value: Any, k: int) -> int:
    return int(value[k] if len(value) > 1 else value[0])


def _slid(n: int, kernel: int, stride: int, padding: int, dilation: int, extra: int, transposed: bool) -> int:
    reach = dilation * (kernel - 1)
    return (
        (n - 1) * stride - 2 * padding + reach + extra + 1
        if transposed
        else (n + 2 * padding - reach - 1) // stride + 1
    )


@answers(aten.native_batch_norm.default)
def batch_norm(x: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, ...] | None:
    """(n, c, *s); saved statistics in train mode. Unlike a convolution, it takes what could be either for plain."""
    if not plain(x) and (not last(x) or x.is_contiguous()):
        return None
    if any(t is not None and t.dtype != x.dtype for t in rest[:4]):
        return None
    saved = (x.shape[1],) if rest[4] else (0,)
    return ZEROS.like(x, x.shape, x.stride()), ZEROS.like(x, saved), ZEROS.like(x, saved)


@answers(aten.native_layer_norm.default)
def layer_norm(x: torch.Tensor, shape: Any, *_: Any) -> tuple[torch.Tensor, ...]:
    """(…, *shape), and mean and deviation along them."""
    first = x.dim() - len(shape)
    apart = (*x.shape[:first], *(1 for _ in shape))
    return ZEROS.like(x, x.shape), ZEROS.like(x, apart), ZEROS.like(x, apart)


@answers(aten.native_group_norm.default)
def group_norm(x: torch.Tensor, w: Any, b: Any, n: int, c: int, hw: int, group: int, eps: float) -> Any:
    """(n, c, *s), and mean and deviation a group."""
    return (ZEROS.like(x, x.shape), ZEROS.like(x, (n, group)), ZEROS.like(x, (n, group))) if plain(x) else None


@answers(aten._softmax.default, aten._log_softmax.default)
def softmax(x: torch.Tensor, *_: Any) -> torch.Tensor | None:
    """The form of x."""
    return unary(x)


@answers(aten.mm.default)
def mm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor | None:
    """(n, k) @ (k, m)."""
    return ZEROS.like(a, (a.shape[0], b.shape[1])) if a.shape[1] == b.shape[0] else None


@answers(aten.addmm.default)
def addmm(c: torch.Tensor, a: torch.Tensor, b: torch.Tensor, **_: Any) -> torch.Tensor | None:
    """c + (n, k) @ (k, m)."""
    return mm(a, b) if c.shape[-1] == b.shape[1] else None


@answers(aten.bmm.default)
def bmm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor | None:
    """(b, n, k) @ (b, k, m)."""
    return ZEROS.like(a, (*a.shape[:2], b.shape[2])) if a.shape[2] == b.shape[1] else None


@answers(aten.linear.default)
def linear(x: torch.Tensor, w: torch.Tensor, bias: Any = None) -> torch.Tensor | None:
    """(…, k) with a weight (m, k)."""
    return ZEROS.like(x, (*x.shape[:-1], w.shape[0])) if x.shape[-1] == w.shape[1] else None


@answers(aten.cat.default)
def cat(tensors: list[torch.Tensor], dim: int = 0) -> torch.Tensor | None:
    """Side by side along dim."""
    first = tensors[0]
    at = dim % max(first.dim(), 1)
    before, after = tuple(first.shape[:at]), tuple(first.shape[at + 1 :])
    for t in tensors:
        if t.dtype != first.dtype or not plain(t):
            return None
        if t.shape[:at] != before or t.shape[at + 1 :] != after:
            return None
    return ZEROS.like(first, (*before, sum(t.shape[at] for t in tensors), *after))


@answers(aten.clone.default)
def clone(x: torch.Tensor, memory_format: Any = None) -> torch.Tensor | None:
    """x on memory of its own."""
    if memory_format is torch.contiguous_format or (plain(x) and memory_format in (None, torch.preserve_format)):
        return ZEROS.like(x, x.shape)
    return None


@answers(aten._scaled_dot_product_flash_attention_for_cpu.default)
def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, ...] | None:
    """(b, heads, n, d), laid out like q as (b, n, heads, d), and (b, heads, n), laid out as (b, n, heads)."""
    if q.dtype != torch.float32 or q.dim() != 4 or v.shape[3] != q.shape[3] or 0 in q.stride():
        return None
    b, heads, n, _d = q.shape
    strides = torch.empty_like(q.transpose(1, 2)).transpose(1, 2).stride()
    return ZEROS.like(q, q.shape, strides), ZEROS.like(q, (b, heads, n), (n * heads, 1, heads))


def _pool(func: Any, dims: int) -> None:
    @answers(func)
    def pool(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """What the op makes of one channel, for all channels."""
        if x.dim() != dims + 2 or not plain(x) or x.shape[1] < 2:
            return None
        out = func(x.narrow(1, 0, 1).contiguous(), *args, **kwargs)
        made = [
            ZEROS.like(t, (t.shape[0], x.shape[1], *t.shape[2:])) for t in (out if isinstance(out, tuple) else (out,))
        ]
        return tuple(made) if isinstance(out, tuple) else made[0]


_pool(aten.max_pool2d_with_indices.default, 2)
_pool(aten.avg_pool2d.default, 2)
_pool(aten._adaptive_avg_pool2d.default, 2)
_pool(aten.upsample_nearest2d.vec, 2)
_pool(aten.upsample_bilinear2d.vec, 2)
_pool(aten.upsample_nearest2d.default, 2)
_pool(aten.upsample_bilinear2d.default, 2)
