"""Two references for a pruned network that know nothing of labels, groups or gates: only which positions a plan keeps.

`cut_at_consumers` multiplies by zero, through hooks, what convolutions and linear layers read. `poisoned` writes NaN
over every slice that the plan removes; a contraction leaves NaN terms out, and everything else lets NaN spread, so that
a removed channel that reaches a kept one shows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from torchbonsai.graph.call import flat_tensors
from torchbonsai.surgery.attributes import CONVOLUTIONS, TRANSPOSED
from torchbonsai.surgery.plan import PruningPlan

aten = torch.ops.aten


def relative_error(got: Any, wanted: Any) -> float:
    """The largest max|a - b| / max|b| over the tensors of two outputs; infinite where shapes or NaN differ."""
    worst = 0.0
    for a, b in zip(flat_tensors(got), flat_tensors(wanted), strict=True):
        if a.shape != b.shape or not torch.equal(torch.isfinite(a), torch.isfinite(b)):
            return float("inf")
        scale = b.abs().max().item() or 1.0
        worst = max(worst, (a - b).abs().max().item() / scale)
    return worst


def _removed(kept: Tensor, size: int) -> Tensor:
    """(size,) bool: the positions that are not among `kept`."""
    gone = torch.ones(size, dtype=torch.bool)
    gone[kept] = False
    return gone


# ---------------------------------------------------------------- hooks
@contextmanager
def cut_at_consumers(model: nn.Module, plan: PruningPlan) -> Iterator[nn.Module]:
    """Meanwhile the model's convolutions and linear layers read zeros for removed channels; no other consumer does."""
    hooks = []
    for path, module in model.named_modules():
        mask = _input_mask(module, plan.kept.get(f"{path}.weight" if path else "weight", {}))
        if mask is not None:
            hooks.append(module.register_forward_pre_hook(_cutter(mask)))
    try:
        yield model
    finally:
        for hook in hooks:
            hook.remove()


def _input_mask(module: nn.Module, kept: dict[int, Tensor]) -> Tensor | None:
    """Ones and zeros along the axis that the module contracts, shaped to multiply its input."""
    if isinstance(module, nn.Linear) and 1 in kept:
        return (~_removed(kept[1], module.in_features)).float()
    if not isinstance(module, CONVOLUTIONS) or module.groups == module.in_channels > 1:
        return None
    axis = 0 if isinstance(module, TRANSPOSED) else 1
    if axis not in kept:
        return None
    stays = (~_removed(kept[axis], module.weight.shape[axis])).float()
    repeats = 1 if axis == 0 else module.groups
    return stays.repeat(repeats).reshape(-1, *[1] * (module.weight.dim() - 2))


def _cutter(mask: Tensor) -> Callable[..., tuple[Any, ...]]:
    return lambda module, args: (args[0] * mask.to(args[0]), *args[1:])


# ---------------------------------------------------------------- NaN
@contextmanager
def poisoned(model: nn.Module, plan: PruningPlan) -> Iterator[nn.Module]:
    """A copy with NaN in every removed slice, inside a mode in which contractions leave NaN terms out."""
    sick = copy.deepcopy(model)
    tensors = {**dict(sick.named_parameters()), **dict(sick.named_buffers())}
    with torch.no_grad():
        for name, axes in plan.kept.items():
            for axis, kept in axes.items():
                if name in tensors and tensors[name].is_floating_point():
                    gone = _removed(kept, tensors[name].shape[axis]).nonzero().flatten()
                    tensors[name].index_fill_(axis, gone, float("nan"))
        with _LeaveOut():
            yield sick


class _LeaveOut(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        rule = _RULES.get(func._overloadpacket)
        return func(*args, **kwargs) if rule is None else rule(func, *args, **kwargs)


def _product(multiply: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """a times b without the terms in which either is NaN; NaN where all terms of a sum are."""
    out = multiply(a.nan_to_num(0.0), b.nan_to_num(0.0))
    alive = multiply((~a.isnan()).to(a), (~b.isnan()).to(b))
    terms = multiply(torch.ones_like(a), torch.ones_like(b))
    return out.masked_fill((alive < 0.5) & (terms > 0.5), float("nan"))


def _convolution(func: Any, x: Tensor, w: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    out = _product(lambda a, b: func(a, b, None, *rest), x, w)
    return out if bias is None else out + bias.reshape(-1, *[1] * (w.dim() - 2))


def _trilinear(func: Any, a: Tensor, b: Tensor, c: Tensor, *dims: Any) -> Tensor:
    three = (a, b, c)
    alive = func(*((~t.isnan()).to(t) for t in three), *dims)
    return func(*(t.nan_to_num(0.0) for t in three), *dims).masked_fill(alive < 0.5, float("nan"))


def _sum(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    alive = func((~x.isnan()).to(x), *args, **kwargs)
    return func(x.nan_to_num(0.0), *args, **kwargs).masked_fill(alive < 0.5, float("nan"))


def _running_sum(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return func(x.nan_to_num(0.0), *args, **kwargs).masked_fill(x.isnan(), float("nan"))


def _added(func: Any, extra: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return beta * extra + alpha * _product(torch.matmul, a, b)


def _attention(
    func: Any, q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0, causal: bool = False, **options: Any
) -> tuple[Tensor, Tensor]:
    """softmax(q k' scale) v by two products; every other option is the op's own business."""
    if dropout or causal or options.get("attn_mask") is not None:
        return func(q, k, v, dropout, causal, **options)
    given = options.get("scale")
    scores = _product(torch.matmul, q, k.transpose(-2, -1)) * (q.shape[-1] ** -0.5 if given is None else given)
    return _product(torch.matmul, scores.softmax(-1), v), scores.logsumexp(-1)


_RULES: dict[Any, Callable[..., Any]] = {
    aten.convolution: _convolution,
    aten.mm: lambda func, a, b: _product(func, a, b),
    aten.bmm: lambda func, a, b: _product(func, a, b),
    aten.mv: lambda func, a, b: _product(func, a, b),
    aten.dot: lambda func, a, b: _product(func, a, b),
    aten._trilinear: _trilinear,
    aten.addmm: _added,
    aten.baddbmm: _added,
    aten.sum: _sum,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten.cumsum: _running_sum,
}
