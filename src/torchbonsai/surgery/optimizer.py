"""Optimizer state sliced by the plan that cut the weights."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import torch
from torch import nn

from torchbonsai.core.errors import PlanError, message
from torchbonsai.surgery.apply import narrow
from torchbonsai.surgery.plan import PruningPlan

_dense_of: weakref.WeakKeyDictionary[PruningPlan, weakref.ref[nn.Module]] = weakref.WeakKeyDictionary()


def remember(plan: PruningPlan, dense: nn.Module) -> None:
    """Which module the plan was made from; weakly, and never serialised."""
    _dense_of[plan] = weakref.ref(dense)


def transfer(
    plan: PruningPlan, optimizer: torch.optim.Optimizer, small: nn.Module, dense: nn.Module | None
) -> torch.optim.Optimizer:
    """An optimizer of the same class and param groups over `small`'s parameters.

    State of a parameter's shape is sliced (not rescaled where `plan.scales` rescales rows), scalars are copied;
    anything else is a PlanError, as is a parameter that is not one of the dense module's. A new bias of `plan.folds`
    joins the group of its weight, without state.
    """
    if dense is None:
        known = _dense_of.get(plan)
        dense = known() if known is not None else None
    if dense is None:
        raise PlanError(
            message(
                "plan.transfer must know which parameter object had which name.",
                "a plan that was loaded, composed or made elsewhere, and no dense=",
                "only the result of tb.prune remembers its module, and only while that module lives",
                "pass dense=the module that the optimizer was made for",
            )
        )
    names = {id(p): n for n, p in dense.named_parameters(remove_duplicate=False)}
    targets = dict(small.named_parameters(remove_duplicate=False))
    born = {f.weight: targets[f.name] for f in plan.folds if f.into == "new bias"}
    groups: list[dict[str, Any]] = []
    pairs: list[tuple[nn.Parameter, nn.Parameter, str]] = []
    for group in optimizer.param_groups:
        matched = [(p, targets[name_of(p, names)], name_of(p, names)) for p in group["params"]]
        pairs += matched
        targeted = [t for _, target, name in matched for t in (target, born.get(name)) if t is not None]
        groups.append({**{k: copy.deepcopy(v) for k, v in group.items() if k != "params"}, "params": targeted})
    fresh = _same_class(optimizer, groups)
    for p, target, name in pairs:
        if p in optimizer.state:
            fresh.state[target] = {k: _slice(plan, name, p, k, v) for k, v in optimizer.state[p].items()}
    return fresh


def name_of(p: nn.Parameter, names: dict[int, str]) -> str:
    """The parameter's name. names: by id. Raises PlanError for one that the module does not hold."""
    if id(p) not in names:
        raise PlanError(
            message(
                "Every parameter of the optimizer must be one of the dense module's.",
                f"a parameter of shape {tuple(p.shape)} that the module does not hold",
                "the optimizer was made for another module, or before the model was moved or copied",
                "pass the optimizer of the module that was pruned, or dense= that module",
            )
        )
    return names[id(p)]


def _same_class(optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """A new optimizer without calling the class's own __init__, whose arguments are not known."""
    kind = type(optimizer)
    fresh: torch.optim.Optimizer = kind.__new__(kind)
    # A scheduler binds `step` to the optimizer that it was made for: a method kept as an attribute must not come along.
    fresh.__dict__ = {k: v for k, v in optimizer.__dict__.items() if not callable(getattr(kind, k, None))}
    for name, hooks in optimizer.__dict__.items():
        if name.endswith("_hooks"):
            setattr(fresh, name, hooks.copy())
    fresh.param_groups = groups
    fresh.state = type(optimizer.state)(optimizer.state.default_factory)
    fresh.defaults = copy.deepcopy(optimizer.defaults)
    return fresh


def _slice(plan: PruningPlan, name: str, p: nn.Parameter, key: str, value: Any) -> Any:
    if not isinstance(value, torch.Tensor) and not _tensors_inside(value):
        return copy.deepcopy(value)
    if not isinstance(value, torch.Tensor):
        raise _not_sliceable(f"state {key!r} of {name!r} is a {type(value).__name__} of tensors")
    if value.shape == p.shape and p.dim() > 0:
        sliced = narrow(value, plan.kept.get(name, {}))
        return sliced.detach()
    if value.numel() == 1:
        return value.clone()
    raise _not_sliceable(f"state {key!r} of {name!r} has shape {tuple(value.shape)}, the parameter {tuple(p.shape)}")


def _tensors_inside(value: Any) -> bool:
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple | set) else ()
    return any(isinstance(v, torch.Tensor) or _tensors_inside(v) for v in members)


def _not_sliceable(got: str) -> PlanError:
    return PlanError(
        message(
            "Optimizer state must have its parameter's shape or be a scalar.",
            got,
            "the optimizer keeps factored or flattened moments",
            "make a new optimizer for the small model",
        )
    )
