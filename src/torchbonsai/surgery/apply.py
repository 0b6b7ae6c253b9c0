"""Applying a plan: a new, smaller module of the user's own class; the given one is untouched."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from torchbonsai.core.errors import PlanError, message
from torchbonsai.graph.forward import copy_module, walk, with_attributes
from torchbonsai.graph.trace import named_tensors
from torchbonsai.surgery.fold import newborn, shifts
from torchbonsai.surgery.plan import AttributeEdit, PruningPlan


def apply(plan: PruningPlan, model: nn.Module) -> nn.Module:
    """A copy of `model` with the plan's slices and attributes.

    Training flags, requires_grad, dtype, device, memory format, buffers and ties are kept; gradients are not copied.
    Raises PlanError where a tensor is missing or has another shape than the plan was made for.
    """
    memo: dict[int, Any] = {}
    names = dict(named_tensors(model))
    new = newborn(plan.folds, names)
    names |= new
    for name in plan.kept:
        if name not in names or tuple(names[name].shape) != tuple(plan.shapes[name]):
            got = f"shape {tuple(names[name].shape)}" if name in names else "no such tensor"
            raise PlanError(
                message(
                    f"The plan was made for a network whose {name!r} has shape {tuple(plan.shapes[name])}.",
                    got,
                    "the plan belongs to another model, or was applied already",
                    "apply it to the dense network that it was made from",
                )
            )
    added = shifts(plan.folds, names)
    for name, tensor in names.items():
        if id(tensor) not in memo:
            memo[id(tensor)] = cut(plan, name, tensor, added.get(name))
    small = copy_module(model, memo)
    modules = dict(walk(small)) if plan.edits or new else {}
    for name, zeros in new.items():
        path, _, attribute = name.rpartition(".")
        modules[path].register_parameter(attribute, memo[id(zeros)])
    for edit in plan.edits:
        set_attribute(modules[edit.module], edit)
    return small


def cut(plan: PruningPlan, name: str, tensor: torch.Tensor, added: torch.Tensor | None = None) -> torch.Tensor:
    """What the plan leaves of a parameter or buffer, rescaled rows and renumbered positions included.

    added: what its folds add to the dense tensor.
    """
    value = narrow(tensor, plan.kept.get(name, {}))
    if added is not None:
        total = tensor.detach().double() + added.to(tensor.device)
        value.data = narrow(total.to(tensor.dtype), plan.kept.get(name, {}))
    if name in plan.moved:
        value.copy_(torch.searchsorted(plan.moved[name].to(value.device), value))
    with torch.no_grad():
        for s in (s for s in plan.scales if s.name == name):
            factors = torch.ones(tensor.shape[s.axis], dtype=value.dtype, device=value.device)
            factors[s.positions.to(value.device)] = s.factor
            stays = plan.kept.get(name, {}).get(s.axis)
            factors = factors if stays is None else factors[stays.to(value.device)]
            value.mul_(factors.reshape([-1 if a == s.axis else 1 for a in range(value.dim())]))
    return value


def narrow(tensor: torch.Tensor, axes: Any) -> torch.Tensor:
    """The kept slices of a parameter or buffer, in memory of their own and in its memory format."""
    value = old = tensor.detach()
    for axis, positions in axes.items():
        value = value.index_select(axis, positions.to(value.device))
    layout = memory_format(tensor)
    if value is old or not value.is_contiguous(memory_format=layout):
        value = value.clone(memory_format=layout)
    if isinstance(tensor, nn.Parameter):
        return with_attributes(nn.Parameter(value, requires_grad=tensor.requires_grad), tensor)
    return value


def memory_format(tensor: torch.Tensor) -> torch.memory_format:
    """channels_last where the tensor is laid out so, else contiguous."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    wanted = formats.get(tensor.dim())
    if wanted is not None:
        _, c, *spatial = tensor.shape
        strides = [1] * len(spatial)
        step = c
        for k in range(len(spatial) - 1, -1, -1):
            strides[k], step = step, step * spatial[k]
        if tensor.stride() == (step, 1, *strides) and tensor.stride() != _contiguous(tuple(tensor.shape)):
            return wanted
    return torch.contiguous_format


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))


def set_attribute(module: nn.Module, edit: AttributeEdit) -> None:
    """Set the attribute of the module that the edit names, in the type that it had."""
    old = getattr(module, edit.attribute, None)
    new = edit.new
    if isinstance(old, torch.Size):
        new = torch.Size(new)
    elif isinstance(old, list):
        new = list(new)
    setattr(module, edit.attribute, new)
