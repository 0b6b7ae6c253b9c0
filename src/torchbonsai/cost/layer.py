"""What a layer is to a clock: an op and everything that decides its time but its widths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

aten = torch.ops.aten
Kind = Literal["conv", "linear"]


@dataclass(frozen=True)
class Layer:
    """kind: of the op. rows: for "conv" the batch, for "linear" how many rows are multiplied.

    size: spatial size of the input. groups: 1, 0 for depthwise (as many as channels), else the number. inputs,
    outputs: the widths in the dense network, which `key` leaves out.
    """

    kind: Kind
    rows: int
    inputs: int
    outputs: int
    size: tuple[int, ...] = ()
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    transposed: bool = False
    output_padding: tuple[int, ...] = ()
    groups: int = 1
    dtype: str = "float32"

    @property
    def key(self) -> str:
        """Names the layer in a table of latencies; without widths."""
        dtype = "" if self.dtype == "float32" else f" {self.dtype}"
        if self.kind == "linear":
            return f"linear rows={self.rows}{dtype}"
        parts = {"k": self.kernel, "s": self.stride, "p": self.padding, "d": self.dilation}
        text = " ".join(f"{k}={'x'.join(map(str, v))}" for k, v in parts.items())
        turned = f" transposed op={'x'.join(map(str, self.output_padding))}" if self.transposed else ""
        return f"conv n={self.rows} at={'x'.join(map(str, self.size))} {text} g={self.groups}{turned}{dtype}"

    @property
    def torch_dtype(self) -> torch.dtype:
        """Of weights and inputs."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found

    def divides(self, inputs: int, outputs: int) -> bool:
        """Whether the widths can be had: a grouped convolution needs multiples of its groups."""
        return self.groups in (0, 1) or (inputs % self.groups == 0 and outputs % self.groups == 0)

    def build(self, inputs: int, outputs: int) -> tuple[nn.Module, tuple[int, ...]]:
        """A module that runs the layer at these widths, and the shape of its input; weights drawn anew, in `dtype`.

        Depthwise: `inputs` and `outputs` are the same.
        """
        if self.kind == "linear":
            return nn.Linear(inputs, outputs, dtype=self.torch_dtype), (self.rows, inputs)
        kinds = _TRANSPOSED if self.transposed else _CONVOLUTIONS
        extra = {"output_padding": self.output_padding} if self.transposed else {}
        module = kinds[len(self.size)](
            inputs, outputs, self.kernel, self.stride, self.padding, dilation=self.dilation,
            groups=self.groups or inputs, dtype=self.torch_dtype, **extra,
        )  # fmt: skip
        return module, (self.rows, inputs, *self.size)


_CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def layer_of(func: Any, args: Any, kwargs: Any, out: Any) -> tuple[Layer, int] | None:
    """The layer that an op runs, and which of its tensors is read along the last axis or, by a convolution, axis 1.

    None for ops that are neither convolutions nor products with a matrix.
    """
    if func is aten.convolution.default:
        layer = _convolution(out, *args)
        return None if layer is None else (layer, 0)
    if func is aten.linear.default:
        x, w = args[:2]
        return Layer("linear", x.numel() // max(x.shape[-1], 1), w.shape[1], w.shape[0], dtype=_name(x)), 0
    if func in (aten.addmm.default, aten.mm.default):
        a, b = args[-2:]
        return Layer("linear", a.shape[0], b.shape[0], b.shape[1], dtype=_name(a)), len(args) - 2
    return None


def _convolution(
    out: torch.Tensor, x: torch.Tensor, w: torch.Tensor, bias: Any, stride: Any, padding: Any, dilation: Any,
    transposed: bool, extra: Any, groups: int,
) -> Layer | None:  # fmt: skip
    dims = x.dim() - 2
    if dims not in _CONVOLUTIONS:
        return None
    inputs, outputs = x.shape[1], out.shape[1]

    def spread(values: Any) -> tuple[int, ...]:
        return tuple(int(v) for v in (values if len(values) == dims else list(values) * dims))

    return Layer(
        "conv", x.shape[0], inputs, outputs, tuple(x.shape[2:]), tuple(w.shape[2:]), spread(stride), spread(padding),
        spread(dilation), transposed, spread(extra), 0 if groups == inputs == outputs and groups > 1 else groups,
        _name(x),
    )  # fmt: skip


def _name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
