"""A masked twin that knows nothing of any graph: the dense network with the weights that read removed channels zeroed.

It needs only which slices of which tensors a tool kept, so it judges every tool alike. It can be told of a network
whose removed channels are read by convolutions and linear layers alone; elsewhere a difference means little.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

Kept = dict[str, dict[int, torch.Tensor]]
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def mask(model: nn.Module, kept: Kept) -> None:
    """Zero, in place, the input slices of convolutions and linear layers that are not in `kept`."""
    with torch.no_grad():
        for path, module in model.named_modules():
            axis = _input_axis(module)
            held = kept.get(f"{path}.weight", {})
            if axis is None or axis not in held:
                continue
            gone = torch.ones(module.weight.shape[axis], dtype=torch.bool)
            gone[held[axis]] = False
            module.weight.data.index_fill_(axis, gone.nonzero().flatten(), 0.0)


def _input_axis(module: nn.Module) -> int | None:
    if isinstance(module, _TRANSPOSED):
        return None if 1 < module.groups == module.in_channels else 0
    return 1 if isinstance(module, _PLAIN) else None


def error(masked: Any, small: Any) -> float:
    """The largest max|small - masked| / max|masked| over the outputs; infinite where shapes or finiteness differ."""
    worst = 0.0
    for a, b in zip(_tensors(masked), _tensors(small), strict=True):
        if a.shape != b.shape or not torch.equal(torch.isfinite(a), torch.isfinite(b)):
            return float("inf")
        if a.numel() and a.is_floating_point():
            a, b = torch.nan_to_num(a, 0, 0, 0), torch.nan_to_num(b, 0, 0, 0)
            worst = max(worst, (a - b).abs().max().item() / (a.abs().max().item() or 1.0))
    return worst


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for v in value for t in _tensors(v)] if isinstance(value, list | tuple) else []
