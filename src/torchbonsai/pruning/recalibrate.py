"""New running statistics for batch norm: after surgery, those of the large network no longer fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from torchbonsai.core.errors import DataError, message
from torchbonsai.cost.evaluate import call, device_of, eval_mode
from torchbonsai.criteria.batches import inputs_of, moved
from torchbonsai.graph.forward import undisturbed, unwrap
from torchbonsai.graph.rules.per_channel import BATCH_NORMS


def recalibrate(
    model: nn.Module, batches: Iterable[Any], forward: Callable[[nn.Module, Any], object] | None = None
) -> tuple[str, ...]:
    """Replace the running statistics of `model`'s batch norms, in place, by those of `batches`; which were replaced.

    One pass without gradients. Every norm normalises with the statistics of the batch, as in training; everything else
    (dropout) is as in eval mode. The new mean and (unbiased) variance are those of all that a norm has seen, batches of
    different lengths pooled: no running average, whatever its momentum. A norm that the forward does not reach keeps
    its statistics. Weights, flags, batch counters and the random state stay as they are.

    batches: read once; a Tensor or dict is the inputs, of anything else its first entry. forward: what to run on a
    batch instead. Returns the names of the means that are new. Raises DataError without batches, or where a batch shows
    a norm a single value a channel; then, and whenever the forward raises, nothing is changed.

    >>> import torch, torchbonsai as tb
    >>> net = torch.nn.Sequential(torch.nn.BatchNorm1d(1), torch.nn.Dropout())
    >>> tb.recalibrate(net, [torch.tensor([[1.0], [2.0]]), torch.tensor([[6.0], [3.0], [3.0]])])
    ('0.running_mean',)
    >>> net[0].running_mean.item(), net[0].running_var.item()
    (3.0, 3.5)
    """
    model = unwrap(model)
    watched, names = _Statistics(), {id(b): name for name, b in model.named_buffers()}
    watched.buffers = set(names)
    device = device_of(model)
    empty = True
    with undisturbed(model), eval_mode(model):
        for batch in batches:
            empty, given = False, moved(batch, device)
            with watched:
                call(model, inputs_of(given)) if forward is None else forward(model, given)
    if empty:
        raise DataError(message("recalibration needs batches", "none", "an exhausted iterator", "pass a loader"))
    with torch.no_grad():
        for mean, variance, seen in watched.found.values():
            mean.copy_(seen.mean)
            variance.copy_(seen.squares / (seen.count - 1))
    return tuple(names[key] for key in watched.found)


@dataclass
class _Moments:
    """Of all values so far: how many a channel, their mean (c,), and the sum of squared distances to it (c,)."""

    count: int
    mean: Tensor
    squares: Tensor

    def add(self, count: int, mean: Tensor, squares: Tensor) -> None:
        """Chan, Golub, LeVeque (1979): two samples' moments make their union's."""
        total = self.count + count
        gap = mean - self.mean
        self.squares += squares + gap.square() * (self.count * count / total)
        self.mean += gap * (count / total)
        self.count = total


class _Statistics(TorchDispatchMode):
    """Every batch norm with running statistics takes those of its input instead, and they are pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.buffers: set[int] = set()
        self.found: dict[int, tuple[Tensor, Tensor, _Moments]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func.name().split(".")[0] in BATCH_NORMS and len(args) > 4 and id(args[3]) in self.buffers:
            x, mean, variance = self._seen(*args[:5])
            return (self._normalised(x, mean, variance, args), *output[1:])
        return output

    def _seen(self, x: Tensor, weight: Any, bias: Any, running_mean: Tensor, running_var: Tensor) -> Any:
        """x with its statistics, which join the pool. Raises DataError for a single value a channel."""
        count = x.numel() // x.shape[1]
        if count < 2:
            raise DataError(
                message(
                    "a batch must show every norm two values a channel or more",
                    f"an input of shape {tuple(x.shape)}",
                    "a batch of one sample, and a norm behind a global pooling",
                    "larger batches; drop the last one if it is a single sample",
                )
            )
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        variance, mean = torch.var_mean(wide, [d for d in range(x.dim()) if d != 1], correction=0)
        pooled = mean.double().cpu(), variance.double().cpu() * count
        if id(running_mean) in self.found:
            self.found[id(running_mean)][2].add(count, *pooled)
        else:
            self.found[id(running_mean)] = (running_mean, running_var, _Moments(count, *pooled))
        return x, mean, variance

    def _normalised(self, x: Tensor, mean: Tensor, variance: Tensor, args: Any) -> Tensor:
        epsilon = next(a for a in reversed(args) if isinstance(a, float))
        shape = [1, -1] + [1] * (x.dim() - 2)
        scale = (variance + epsilon).rsqrt()
        shift = -mean * scale
        if args[1] is not None:
            scale, shift = scale * args[1], shift * args[1]
        if args[2] is not None:
            shift = shift + args[2]
        return (x * scale.reshape(shape) + shift.reshape(shape)).to(x.dtype)
