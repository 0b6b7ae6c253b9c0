"""Every op that a hollow pass answers: on shapes with axes of one element and any strides, PyTorch's own form or none.

Axes of one element may have any stride, and PyTorch's ops read layouts from strides, each in its own way.
"""

from __future__ import annotations

import random

import pytest
import torch

from torchbonsai.graph import hollow

aten = torch.ops.aten
DRAWS = 60


class Draw:
    """Random shapes, layouts and dtypes."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.one_of = self.random.choice

    def dtype(self):
        return self.one_of([torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16])

    def size(self) -> int:
        return self.one_of([1, 1, 2, 3, 4])

    def sizes(self, *dims: int) -> list[int]:
        return [self.size() for _ in range(self.one_of(dims))]

    def tensor(self, shape, dtype=torch.float32) -> torch.Tensor:
        """Plain, channels last, permuted, sliced or expanded; axes of one element with strides that fit nothing."""
        kind = self.one_of(["plain", "last", "permuted", "sliced", "expanded"])
        if kind == "expanded":
            x = torch.rand([self.one_of([1, n]) for n in shape]).to(dtype).expand(list(shape))
        elif kind == "sliced":
            x = torch.rand([n + self.one_of([0, 1]) for n in shape]).to(dtype)[tuple(slice(n) for n in shape)]
        else:
            order = self.random.sample(range(len(shape)), len(shape)) if kind == "permuted" else [*range(len(shape))]
            x = torch.rand([shape[a] for a in order]).to(dtype).permute([order.index(a) for a in range(len(shape))])
            x = x.to(memory_format=torch.channels_last) if kind == "last" and x.dim() == 4 else x
        if self.one_of([True, False]):
            pairs = zip(x.shape, x.stride(), strict=True)
            x = x.as_strided(x.shape, [self.one_of([1, 2, 5, s]) if n == 1 else s for n, s in pairs])
        return x


def unary(draw: Draw, func):
    more = {"hardtanh": [0.0, 6.0], "clamp": [0.0, 1.0], "pow": [2]}
    name = str(func).split(".")[1]
    return draw.tensor(draw.sizes(1, 2, 3, 4, 5), draw.dtype()), *more.get(name, ())


def in_place(draw: Draw, func):
    return draw.tensor(draw.sizes(1, 3, 4), draw.dtype()).clone(), *([0.0] if "clamp" in str(func) else [])


def binary(draw: Draw, func):
    shape, dtype = draw.sizes(1, 2, 3, 4, 4), draw.dtype()
    other = [draw.one_of([n, n, 1]) for n in shape][draw.one_of([0, 0, 1]) :]
    pair = [draw.tensor(shape, dtype), draw.tensor(other, draw.one_of([dtype, dtype, torch.float32]))]
    draw.random.shuffle(pair)
    return pair


def binary_in_place(draw: Draw, func):
    shape = draw.sizes(1, 3, 4)
    return draw.tensor(shape).clone(), draw.tensor(shape)


def convolution(draw: Draw, func):
    spatial, dtype = draw.one_of([1, 2, 2, 2, 3]), draw.one_of([torch.float32, torch.float64])
    groups, transposed = draw.one_of([1, 1, 2]), draw.one_of([False, False, True])
    c, o = draw.size() * groups, draw.size() * groups
    kernel = [draw.one_of([1, 1, 2]) for _ in range(spatial)]
    x = draw.tensor([draw.size(), c, *(draw.one_of([1, 2, 4, 6]) for _ in kernel)], dtype)
    w = draw.tensor([c, o // groups, *kernel] if transposed else [o, c // groups, *kernel], dtype)
    stride, padding, dilation = ([draw.one_of([low, low + 1]) for _ in kernel] for low in (1, 0, 1))
    return x, w, None, stride, padding, dilation, transposed, [0] * spatial, groups


def batch_norm(draw: Draw, func):
    x = draw.tensor(draw.sizes(2, 3, 4, 4, 5), draw.dtype())
    own = draw.one_of([x.dtype, torch.float32])
    return x, None, None, *(torch.ones(x.shape[1], dtype=own) for _ in "mv"), draw.one_of([True, False]), 0.1, 1e-5


def layer_norm(draw: Draw, func):
    x = draw.tensor(draw.sizes(2, 3, 4), draw.dtype())
    return x, list(x.shape[draw.one_of([1, -1]) :]), None, None, 1e-5


def group_norm(draw: Draw, func):
    n, c, h, w = draw.size(), draw.one_of([2, 4]), draw.size(), draw.size()
    return draw.tensor([n, c, h, w], draw.dtype()), None, None, n, c, h * w, 2, 1e-5


def softmax(draw: Draw, func):
    return draw.tensor(draw.sizes(1, 2, 3, 4), draw.dtype()), -1, False


def products(draw: Draw, func):
    (b, n, k, m), dtype = (draw.size() for _ in range(4)), draw.dtype()
    left, right = draw.tensor([n, k], dtype), draw.tensor([k, m], dtype)
    bias = draw.tensor(draw.one_of([[m], [n, m]]), dtype)
    return {
        aten.mm.default: (left, right),
        aten.addmm.default: (bias, left, right),
        aten.bmm.default: (draw.tensor([b, n, k], dtype), draw.tensor([b, k, m], dtype)),
        aten.linear.default: (draw.tensor([*draw.sizes(0, 1, 2), k], dtype), draw.tensor([m, k], dtype)),
    }[func]


def cat(draw: Draw, func):
    shape, dtype = draw.sizes(1, 2, 3, 4, 4), draw.dtype()
    axis = draw.random.randrange(-len(shape), len(shape))
    sizes = [[draw.size() if a == axis % len(shape) else n for a, n in enumerate(shape)] for _ in range(draw.size())]
    return [draw.tensor(s, draw.one_of([dtype, dtype, torch.float32])) for s in sizes], axis


def clone(draw: Draw, func):
    return (draw.tensor(draw.sizes(1, 2, 3, 4), draw.dtype()),)


def attention(draw: Draw, func):
    b, heads, n, m, d = (draw.size() for _ in range(5))
    return [draw.tensor([b, heads, length, d]) for length in (n, m, m)]


def pooled(draw: Draw, func):
    x = draw.tensor([draw.size(), draw.size(), *(draw.one_of([2, 4, 6]) for _ in "hw")], draw.dtype())
    sizes, name = [draw.one_of([1, 2, 3]) for _ in "hw"], str(func)
    if "adaptive" in name:
        return x, sizes
    if "upsample" not in name:
        return x, [2, 2], draw.one_of([[], [2, 1]])
    align = [False] if "bilinear" in name else []
    return (x, None, *align, [2.0, 2.0]) if name.endswith("vec") else (x, sizes, *align)


DRAWN = {
    aten.convolution.default: convolution,
    aten.native_batch_norm.default: batch_norm,
    aten.native_layer_norm.default: layer_norm,
    aten.native_group_norm.default: group_norm,
    aten._softmax.default: softmax,
    aten._log_softmax.default: softmax,
    aten.cat.default: cat,
    aten.clone.default: clone,
    aten._scaled_dot_product_flash_attention_for_cpu.default: attention,
    **dict.fromkeys((aten.mm.default, aten.addmm.default, aten.bmm.default, aten.linear.default), products),
}
KINDS = {"unary": unary, "in_place": in_place, "binary": binary, "binary_in_place": binary_in_place, "pool": pooled}


def form(value):
    return [(tuple(t.shape), t.stride(), t.dtype) for t in (value if isinstance(value, tuple) else (value,))]


@pytest.mark.parametrize("func", hollow.ANSWERS, ids=str)
def test_an_answer_has_the_form_of_the_ops_own_result_whatever_the_strides(func):
    draw = Draw(0)
    arguments = DRAWN.get(func) or KINDS[hollow.ANSWERS[func].__name__]
    answered = 0
    for _ in range(DRAWS * (8 if func is aten.convolution.default else 1)):
        args = arguments(draw, func)
        try:
            wanted = form(func(*args))
        except RuntimeError:
            continue  # sizes or dtypes that do not fit
        found = hollow.answer(func, args, {})
        assert found is None or form(found) == wanted, [form(a) for a in args if isinstance(a, torch.Tensor)]
        answered += found is not None
    assert answered > 5
