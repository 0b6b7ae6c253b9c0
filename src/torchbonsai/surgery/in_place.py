"""Narrowing the objects that a training loop holds: a module, its optimizer, its averaged copies. All or nothing.

Parameters are replaced, not resized: autograd's accumulators remember a parameter's shape. Everything that a plan does
not change stays the very same object.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

import torch
from torch import nn

from torchbonsai.core.errors import ConfigError, PlanError, message
from torchbonsai.surgery.apply import apply, cut, narrow, set_attribute
from torchbonsai.surgery.optimizer import name_of, transfer
from torchbonsai.surgery.plan import PruningPlan

Undo = Callable[[], None]
_AVERAGED = "module"
"""The attribute under which AveragedModel and timm's ModelEma keep their copy."""


def check_followers(model: nn.Module, optimizer: torch.optim.Optimizer, followers: tuple[Any, ...]) -> None:
    """Raises PlanError for an optimizer with parameters of something else; ConfigError for what cannot follow: neither
    averaged copy, scheduler of this optimizer, nor scaler."""
    names = {id(p): n for n, p in model.named_parameters()}
    for group in optimizer.param_groups:
        for p in group["params"]:
            name_of(p, names)
    for follower in followers:
        if isinstance(follower, nn.Module | MutableMapping | torch.amp.GradScaler):
            continue
        if getattr(follower, "optimizer", None) is not optimizer:
            raise ConfigError(
                message(
                    "follow= takes averaged copies (a module, or a dict name -> tensor), schedulers and grad scalers",
                    f"a {type(follower).__name__}, which is none, or is a scheduler of another optimizer",
                    "an object that keeps its own list of parameters",
                    "give what it holds as a dict of name -> tensor, or make it anew after the cut",
                )
            )


def narrow_in_place(
    plan: PruningPlan,
    model: nn.Module,
    small: nn.Module,
    optimizer: torch.optim.Optimizer,
    followers: tuple[Any, ...],
    check: Callable[[], None],
) -> None:
    """`model` takes the narrowed tensors and attributes of `small`; `optimizer` and `followers` go with it.

    Schedulers and scalers hold the optimizer, which stays the same object. check: called when all is done; where it
    or anything before it raises, everything is as it was. Raises PlanError for a parameter with hooks, or an
    averaged copy of another model.
    """
    if plan.folds:
        raise PlanError(
            message(
                "a plan that folds constants into biases is applied by tb.prune, to a copy",
                f"{len(plan.folds)} folds",
                "a plan made with fold=, given to a cut in place",
                "cut in place without fold=",
            )
        )
    _check_hooks(plan, model)
    fresh = transfer(plan, optimizer, small, dense=model)  # may refuse, so before anything is changed
    copies = [(inner, apply(plan, inner)) for f in followers if (inner := _module_in(f)) is not None]
    undo: list[Undo] = []
    try:
        _swap_optimizer(plan, model, small, optimizer, fresh, undo)
        _swap(plan, model, small, undo)
        for inner, smaller in copies:
            _swap(plan, inner, smaller, undo)
        for follower in followers:
            if isinstance(follower, MutableMapping):
                _swap_mapping(plan, follower, undo)
        check()
    except BaseException:
        for step in reversed(undo):
            step()
        raise


def _module_in(follower: Any) -> nn.Module | None:
    inner = getattr(follower, _AVERAGED, None)
    if isinstance(inner, nn.Module):
        return inner
    return follower if isinstance(follower, nn.Module) else None


def _check_hooks(plan: PruningPlan, model: nn.Module) -> None:
    changed = plan.changed
    for name, p in model.named_parameters():
        if name in changed and (p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None)):
            raise PlanError(
                message(
                    "a parameter that is replaced must have no hooks of its own",
                    f"a hook on {name!r}",
                    "Tensor.register_hook, or an optimizer that steps in the backward pass",
                    "remove the hook before the cut and register it on the new parameter",
                )
            )


def _swap(plan: PruningPlan, model: nn.Module, small: nn.Module, undo: list[Undo]) -> None:
    """Every changed tensor and every edited attribute of `model`, from `small`, module by module."""
    changed = plan.changed
    for path, module in model.named_modules(remove_duplicate=False):
        source = small.get_submodule(path)
        prefix = f"{path}." if path else ""
        for kind in ("_parameters", "_buffers"):
            mine, others = getattr(module, kind), getattr(source, kind)
            for key, old in list(mine.items()):
                if old is not None and prefix + key in changed:
                    if old.grad is not None and others[key].grad is None:  # for loops that accumulate
                        others[key].grad = narrow(old.grad, plan.kept.get(prefix + key, {}))
                    _put(mine, key, others[key], undo)
    for edit in plan.edits:
        module, old = model.get_submodule(edit.module), getattr(model.get_submodule(edit.module), edit.attribute)
        undo.append(lambda m=module, a=edit.attribute, v=old: setattr(m, a, v))  # type: ignore[misc]
        set_attribute(module, edit)


def _swap_optimizer(
    plan: PruningPlan,
    model: nn.Module,
    small: nn.Module,
    optimizer: torch.optim.Optimizer,
    fresh: torch.optim.Optimizer,
    undo: list[Undo],
) -> None:
    """The optimizer's own lists and state over the new parameters, in the very same objects."""
    targets, changed = dict(small.named_parameters(remove_duplicate=False)), plan.changed
    new = {id(p): targets[n] for n, p in model.named_parameters(remove_duplicate=False) if n in changed}
    state = dict(optimizer.state)
    lists = [list(group["params"]) for group in optimizer.param_groups]

    def back() -> None:
        for group, old in zip(optimizer.param_groups, lists, strict=True):
            group["params"][:] = old
        optimizer.state.clear()
        optimizer.state.update(state)

    undo.append(back)
    for group, old in zip(optimizer.param_groups, lists, strict=True):
        group["params"][:] = [new.get(id(p), p) for p in old]
        for p in old:
            if id(p) in new and p in optimizer.state:
                del optimizer.state[p]
                optimizer.state[new[id(p)]] = fresh.state[new[id(p)]]


def _swap_mapping(plan: PruningPlan, tensors: MutableMapping[str, torch.Tensor], undo: list[Undo]) -> None:
    for name in sorted(plan.changed):
        if name in tensors:
            wanted = plan.shapes.get(name, tuple(tensors[name].shape))
            if tuple(tensors[name].shape) != tuple(wanted):
                raise PlanError(
                    message(
                        f"an averaged copy of {name!r} must have the shape {tuple(wanted)}",
                        f"{tuple(tensors[name].shape)}",
                        "a copy of another model, or one that was cut already",
                        "make the copy from the model as it is now",
                    )
                )
            _put(tensors, name, cut(plan, name, tensors[name]), undo)


def _put(mapping: MutableMapping[str, Any], key: str, value: Any, undo: list[Undo]) -> None:
    old = mapping[key]
    undo.append(lambda: mapping.__setitem__(key, old))
    mapping[key] = value
