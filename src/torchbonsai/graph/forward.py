"""Running a model's forward on examples without leaving a trace on it: copies, modes, random state, inputs."""

from __future__ import annotations

import copy
import gc
import random
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import prune

from torchbonsai.core.errors import ConfigError, TraceError, message
from torchbonsai.graph.call import flat_tensors, map_tensors

Example = tuple[tuple[Any, ...], dict[str, Any]]


def as_examples(example_inputs: Any) -> list[Example]:
    """Example inputs as a list of (positional, keyword): a Tensor, a tuple, a dict, or a list of these."""
    many = example_inputs if isinstance(example_inputs, list) else [example_inputs]
    examples: list[Example] = []
    for one in many:
        if isinstance(one, dict):
            examples.append(((), dict(one)))
        else:
            examples.append((tuple(one) if isinstance(one, tuple) else (one,), {}))
    if not examples or not all(flat_tensors([a, k]) for a, k in examples):
        raise ConfigError(
            message(
                "example_inputs must hold at least one tensor.",
                repr(type(example_inputs).__name__),
                "a shape was given instead of a tensor",
                "pass torch.randn(1, 3, 224, 224), a tuple or a dict of such, or a list of several examples",
            )
        )
    return examples


def unwrap(model: nn.Module) -> nn.Module:
    """The user's own module inside torch.compile, DataParallel or DistributedDataParallel; others are refused."""
    if isinstance(model, torch.jit.ScriptModule):
        raise TraceError(
            message(
                "The model must be a plain nn.Module.",
                "a scripted or traced module (torch.jit)",
                "torch.jit.script or torch.jit.trace was applied before pruning",
                "prune the original module, then script the small one",
            )
        )
    if not isinstance(model, nn.Module):
        raise TraceError(
            message(
                "The model must be an nn.Module.",
                type(model).__name__,
                "a factory or a state dict was passed",
                "pass the module itself",
            )
        )
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod") and type(model).__name__ == "OptimizedModule":
            model = model._orig_mod  # type: ignore[assignment]
        else:
            break
    modules = walk(model)
    lazy = [f"{n}.{k}" for n, m in modules for k, p in m._parameters.items() if isinstance(p, UninitializedParameter)]
    if lazy:
        raise TraceError(
            message(
                "Every parameter must have a shape.",
                f"lazy parameters that no forward has made yet: {lazy[:3]}",
                "torch.nn.Lazy… modules before their first forward",
                "call the model once on example_inputs, then prune it",
            )
        )
    quantised = [n for n, m in modules if "quantized" in type(m).__module__]
    if quantised:
        raise TraceError(
            message(
                "A quantised model cannot be pruned.",
                f"quantised modules {quantised[:3]}",
                "the model was converted to integer arithmetic before pruning",
                "prune the floating-point model, then quantise the small one",
            )
        )
    return model


def permanent(model: nn.Module) -> nn.Module:
    """The model itself, or, where it carries masks of torch.nn.utils.prune, a copy with the masks made permanent."""
    if not prune.is_pruned(model):
        return model
    copy = copy_module(model, {})
    for module in copy.modules():
        masked = [k.removesuffix("_mask") for k, _ in module.named_buffers(recurse=False) if k.endswith("_mask")]
        for name in masked:
            if hasattr(module, f"{name}_orig"):
                prune.remove(module, name)
    return copy


def walk(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every module under every path that it has, parents first: named_modules(remove_duplicate=False), at once."""
    found: list[tuple[str, nn.Module]] = []
    _enter("", model, found)
    return found


def _enter(path: str, module: nn.Module, found: list[tuple[str, nn.Module]]) -> None:
    found.append((path, module))
    for name, child in module._modules.items():
        if child is not None:
            _enter(f"{path}.{name}" if path else name, child, found)


def alias_copy(model: nn.Module) -> nn.Module:
    """A copy that shares the weights' memory (never written) and owns its buffers (written in train mode)."""
    memo: dict[int, Any] = {}
    for _, module in walk(model):
        for p in module._parameters.values():
            if p is not None and id(p) not in memo:
                memo[id(p)] = with_attributes(nn.Parameter(p.detach(), requires_grad=p.requires_grad), p)
        for b in module._buffers.values():
            if b is not None and id(b) not in memo and b.is_contiguous() and type(b) is torch.Tensor:
                memo[id(b)] = b.detach().clone()
    return copy_module(model, memo)


def set_mode(model: nn.Module, training: bool) -> None:
    """model.train(training), without its detours where no class has a mind of its own about it."""
    modules = [m for _, m in walk(model)]
    if any(type(m).train is not nn.Module.train or type(m).eval is not nn.Module.eval for m in modules):
        model.train(training)
        return
    for module in modules:
        module.__dict__["training"] = training


def with_attributes(new: nn.Parameter, old: nn.Parameter) -> nn.Parameter:
    """`new` with what user code hung on `old` (`no_weight_decay` and the like); the tracer's own notes stay behind."""
    if old.__dict__:  # rarely
        new.__dict__.update({k: v for k, v in old.__dict__.items() if k != "_bonsai"})
    return new


def copy_module(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """copy.deepcopy with tensors replaced by `memo` (id -> tensor), several times faster for plain modules."""
    try:
        return _copied(model, memo)
    except Exception as error:
        raise TraceError(
            message(
                "The model must allow copy.deepcopy: it is never changed itself.",
                f"{type(error).__name__}: {error}",
                "an attribute holds a lock, a generator, an open file, or a tensor that has a grad_fn",
                "move that attribute out of the module, or give it a __deepcopy__",
            )
        ) from error


_ATOMIC = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, type, range)
_ATOMIC_TYPES = frozenset((*_ATOMIC, FunctionType, BuiltinFunctionType, torch.memory_format, torch.layout))
_OWN = frozenset(vars(nn.Module()))
"""What every module holds: its tensors, its children, and its hooks, most of which are empty."""


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """What copy.deepcopy(value, memo) gives, without its detours for modules, dicts, lists and tuples."""
    kind = type(value)
    if kind in _ATOMIC_TYPES:
        return value
    known = memo.get(id(value))
    if known is not None:
        return known
    if isinstance(value, nn.Module) and _is_plain(kind):
        new: nn.Module = object.__new__(kind)
        memo[id(value)] = new
        state = new.__dict__
        for k, v in value.__dict__.items():
            of = type(v)
            if of in _ATOMIC_TYPES:
                state[k] = v
            else:
                state[k] = of() if k in _OWN and not v else _copied(v, memo)
        return new
    if kind in (dict, OrderedDict):
        mapping = memo[id(value)] = kind()
        for k, v in value.items():
            made = memo.get(id(v))
            mapping[k if type(k) in _ATOMIC_TYPES else _copied(k, memo)] = _copied(v, memo) if made is None else made
        return mapping
    if kind is list:
        members = memo[id(value)] = []
        members.extend(_copied(v, memo) for v in value)
        return members
    if isinstance(value, torch.Tensor) and not value.is_leaf:  # made by a hook of weight norm, and again each time
        fresh = memo[id(value)] = value.detach().clone()
        return fresh
    if kind is tuple:
        return tuple(_copied(v, memo) for v in value)
    return copy.deepcopy(value, memo)


def _is_plain(kind: type) -> bool:
    """Does the class copy as its __dict__ alone? torch.nn's own __setstate__ only mend old checkpoints, but RNNs'.

    torch.compile puts a guard of its own around that of nn.Module.
    """
    restore = kind.__setstate__  # type: ignore[attr-defined]
    ours = restore is nn.Module.__setstate__ or restore.__module__.startswith("torch.nn.modules.")
    mends = ours and not issubclass(kind, nn.RNNBase)
    usual = kind.__reduce_ex__ == nn.Module.__reduce_ex__ and kind.__getstate__ == nn.Module.__getstate__
    return mends and usual and not hasattr(kind, "__deepcopy__")


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """The cycle collector rests: with thousands of small records alive it doubles the time of a pass."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Global random state and the attention fast path are as before afterwards; no gradients are taken."""
    held = {p.device for _, m in walk(model) for p in m._parameters.values() if p is not None}
    devices = sorted({d.index or 0 for d in held if d.type == "cuda"})
    fast = torch.backends.mha.get_fastpath_enabled()
    python, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            random.setstate(python)
            np.random.set_state(arrays)


def draw_alike(seed: int = 0) -> None:
    """Inside `undisturbed`: every pass draws the same numbers, so that two passes differ by the cut alone."""
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def doubled(example: Example) -> Example:
    """The same example with every tensor's first axis repeated once: batch norm cannot train on one value."""

    doubled_: Example = map_tensors(lambda t: torch.cat([t, t]) if t.dim() else t, example)
    return doubled_


def cropped(example: Example, size: int | None) -> Example:
    """The first `size` rows and columns of every picture (n, c, h, w) that is half as large again; or the example."""

    def large(t: torch.Tensor) -> bool:
        return size is not None and t.dim() == 4 and t.is_floating_point() and min(t.shape[2:]) >= 1.5 * size

    if not any(large(t) for t in flat_tensors([example[0], example[1]])):
        return example
    smaller: Example = map_tensors(lambda t: t[..., :size, :size].contiguous() if large(t) else t, example)
    return smaller
