"""What a training step consists of: the time of its convolutions and matrix products alone, in both arms."""

from __future__ import annotations

import copy
import statistics
from collections import Counter
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from torchbonsai.training.fastest import Arithmetic

ROUNDS = 5
WARM = 3
"""Passes that are not counted: a process that has just begun gets its memory from the system page by page."""
PLAIN = Arithmetic("float32", channels_last=False, compile=False)


def contractions_alone(model: nn.Module, x: Tensor, chosen: Arithmetic) -> dict[str, float]:
    """Seconds of forward and backward of all convolutions and linear layers on a batch x, each timed by itself.

    {"b": in float32, contiguous; "ours": in the precision and layout chosen, or where that is compiled, whose layouts
    are the compiler's own, in the faster layout of each}: the sums of medians of five. A shape that occurs several
    times is timed once.
    """
    found = layers(model, x)
    sums = {"b": 0.0, "ours": 0.0}
    for (_, shape, first), (module, count) in found.items():
        for arm, how in (("b", PLAIN), ("ours", chosen)):
            ways = [replace(how, channels_last=last) for last in (False, True)] if how.compile else [how]
            sums[arm] += count * min(seconds(module, shape, way, backward_to_input=not first) for way in ways)
    return {arm: round(value, 5) for arm, value in sums.items()}


def layers(model: nn.Module, x: Tensor) -> dict[Any, tuple[nn.Module, int]]:
    """(what the layer is, shape of its input, whether it is the first) -> (one such layer, how many there are)."""
    seen: list[tuple[Any, nn.Module]] = []

    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(((str(module), tuple(inputs[0].shape), not seen), module))

    handles = [m.register_forward_pre_hook(hook) for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    with torch.inference_mode():
        model.eval()(x)
    for handle in handles:
        handle.remove()
    counts = Counter(key for key, _ in seen)
    return {key: (module, counts[key]) for key, module in seen}


def seconds(module: nn.Module, shape: tuple[int, ...], how: Arithmetic, *, backward_to_input: bool) -> float:
    """Of one forward and backward, the median of five."""
    dtype = torch.bfloat16 if how.precision == "bf16" else torch.float32
    layer = copy.deepcopy(module).to(dtype)
    x = torch.randn(shape, device=layer.weight.device).to(dtype)  # type: ignore[union-attr]
    if how.channels_last and x.ndim == 4:
        layer, x = layer.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x.requires_grad_(backward_to_input)
    wanted = [*layer.parameters(), *([x] if backward_to_input else [])]
    gradient = torch.randn_like(layer(x))

    def both() -> None:
        torch.autograd.grad(layer(x), wanted, gradient)

    timer = Timer("both()", globals={"both": both}, num_threads=torch.get_num_threads())
    timer.timeit(WARM)
    return statistics.median(timer.timeit(1).mean for _ in range(ROUNDS))
