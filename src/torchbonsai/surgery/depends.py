"""Which values of a pass depend on the model's input? The others are constants, whatever the input is: a proof.

Every storage of the pass has a shadow, a bool for each of its elements, so views and writes in place need no rule. A
product with an exact zero depends on nothing, so a filter of zeros, or a norm whose scale is zero, makes constants.
Deny by default: what an op without a rule here makes of anything that depends, depends. The proof holds for inputs of
the same shape, and for finite numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from torchbonsai.graph.call import flat_tensors, map_tensors
from torchbonsai.graph.rules import registry
from torchbonsai.graph.rules.per_channel import BATCH_NORMS
from torchbonsai.surgery.contraction import Contraction, contraction

_MOVES = frozenset("clone cat stack constant_pad_nd index index_select flip roll repeat".split())
"""Ops that only move elements, or pad: run on the shadows, they say where these go."""
_MIXES = frozenset(
    "max_pool1d avg_pool1d max_pool2d_with_indices avg_pool2d max_pool3d_with_indices avg_pool3d mean sum amax "
    "_adaptive_avg_pool2d adaptive_avg_pool2d _adaptive_avg_pool3d upsample_nearest1d upsample_nearest2d "
    "upsample_nearest3d upsample_bilinear2d reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d "
    "replication_pad2d replication_pad3d".split()
)
"""Ops whose output depends on all that lies under a window; none of their weights is negative."""
_READS = frozenset({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape})
_LEAVES = frozenset({torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.__array__, torch.Tensor.__dlpack__})
"""Calls that hand values over past the dispatcher."""


class Depends(TorchDispatchMode):
    """Follows a pass; called with one of its tensors, says which elements depend on the input.

    own: the model's parameters and buffers; every tensor that neither is one nor was made here depends. void: why
    nothing is known of this pass after all; empty as long as all is well. Memory is kept until the pass is forgotten,
    so that no two tensors ever share a place.
    """

    def __init__(self, own: Iterable[Tensor]) -> None:
        super().__init__()
        self.void = ""
        self.shadows: dict[int, tuple[int, Tensor]] = {}  # place -> bytes of an element, the shadow
        self.kept: list[Tensor] = []
        for tensor in own:
            self._write(tensor, torch.zeros((), dtype=torch.bool))
        self._leaving = _Leaving(self)

    def __enter__(self) -> Depends:
        self._leaving.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._leaving.__exit__(*error)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __call__(self, tensor: Tensor) -> Tensor:
        """Of the tensor's shape, bool."""
        size, shadow = self.shadows.get(_place(tensor), (0, None))
        if self.void or shadow is None or size != tensor.element_size():
            return torch.ones(tensor.shape, dtype=torch.bool, device=tensor.device)
        return shadow.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, known = kwargs or {}, registry.known(func)
        dependent = any(bool(self(t).any()) for t in flat_tensors([list(args), kwargs]) if t.numel())
        masks = self._masks(known, args, kwargs) if dependent else []
        out = func(*args, **kwargs)
        outs = flat_tensors(out)
        if dependent and _READS & set(func.tags):
            self.void = f"{known.name} makes the input decide a branch or a shape"
        if known.mutable and (len(outs) != 1 or outs[0] is not args[0]):
            self.void = f"{known.name} writes elsewhere than into its first argument"
        anything = dependent and known.kind != "creation"
        anything |= torch.Tag.nondeterministic_seeded in func.tags
        for k, tensor in enumerate(outs):
            if known.mutable or _place(tensor) not in self.shadows:  # else a view of what is known
                fits = k < len(masks) and masks[k].shape == tensor.shape
                self._write(tensor, masks[k] if fits else torch.tensor(anything))
        return out

    def leave(self, tensor: Tensor, how: str) -> None:
        """Its values are handed over to code that is not seen."""
        with _disable_current_modes():  # asking is no op of the pass
            if bool(self(tensor).any()):
                self.void = f"{how} makes the input decide a branch or a shape"

    def _write(self, tensor: Tensor, mask: Tensor) -> None:
        if not tensor.numel():
            return
        place, size = _place(tensor), tensor.element_size()
        if place not in self.shadows:
            elements = tensor.untyped_storage().nbytes() // size
            self.shadows[place] = size, torch.zeros(elements, dtype=torch.bool, device=tensor.device)
            self.kept.append(tensor)
        before, shadow = self.shadows[place]
        if before != size:
            self.void = "memory is read as numbers of another size"
        elif 0 in tensor.stride():
            shadow |= mask.any().to(shadow.device)
        else:
            shadow.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset()).copy_(mask)

    # ------------------------------------------------------------------ what an op makes of what depends
    def _masks(self, known: registry.Known, args: Any, kwargs: Any) -> list[Tensor]:
        """For each output what of it depends; fewer, or of another shape, where nothing is known of it."""
        name = known.name.split(".")[1] if known.name.startswith("aten.") else known.name
        name = name.removesuffix("_") if known.mutable else name
        found = contraction(known.name, args)
        try:
            if found is not None:
                return self._contracted(found, args)
            if f"aten::{name}" in BATCH_NORMS:
                return self._normed(known.name, args)
            if name == "mul" and isinstance(args[1], Tensor):
                return [self._product(*args)]
            if name == "copy":
                return [self(args[1]).expand(args[0].shape)]
            if known.kind == "pointwise" or name == "prelu":
                return [self._any(flat_tensors([list(args), kwargs]))]
            if name in _MOVES or name in _MIXES:
                return self._alike(known.func, name in _MIXES, args, kwargs)
        except (RuntimeError, TypeError, IndexError, NotImplementedError):
            pass  # then all of it depends
        return []

    def _contracted(self, found: Contraction, args: Any) -> list[Tensor]:
        fixed = [found.weight] if found.bias is None else [found.weight, found.bias]
        if bool(self._depend(fixed)):
            return []
        x, used = self(found.input).float(), (found.weight != 0).float()
        if found.axis == 1:
            return [torch.convolution(x, used, None, *args[3:9]) > 0.5]
        return [(x @ used if found.contracts == 0 else x @ used.T) > 0.5]

    def _normed(self, name: str, args: Any) -> list[Tensor]:
        """By running statistics, each channel alone."""
        x, scale, *others = args[:5]
        running = "no_training" in name or "no_update" in name or not args[5]
        if not running or others[1] is None or self._depend([t for t in (scale, *others) if t is not None]):
            return []
        mask = self(x)
        if scale is not None:
            mask = mask & (scale != 0).reshape([-1 if a == 1 else 1 for a in range(x.dim())])
        return [mask]

    def _product(self, a: Tensor, b: Tensor) -> Tensor:
        left, right = self(a), self(b)
        return (left & ((b != 0) | right)) | (right & ((a != 0) | left))

    def _any(self, tensors: list[Tensor]) -> Tensor:
        found = self(tensors[0])
        for tensor in tensors[1:]:
            found = found | self(tensor)
        return found

    def _alike(self, func: Any, mixes: bool, args: Any, kwargs: Any) -> list[Tensor]:
        """The op itself on the shadows; places that it takes from a tensor are no values, and must not depend."""
        tensors = flat_tensors([list(args), kwargs])
        if self._depend([t for t in tensors if not t.is_floating_point()]):
            return []

        def shadow(tensor: Tensor) -> Tensor:
            return self(tensor).float() if tensor.is_floating_point() else tensor

        out = flat_tensors(func(*map_tensors(shadow, list(args)), **map_tensors(shadow, kwargs)))
        return [out[0] > 0] if mixes else [t != 0 for t in out]

    def _depend(self, tensors: Iterable[Tensor]) -> bool:
        return any(bool(self(t).any()) for t in tensors)


class _Leaving(TorchFunctionMode):
    """Values that depend on the input and leave for Python or NumPy may decide anything."""

    def __init__(self, depends: Depends) -> None:
        super().__init__()
        self.depends = depends

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _LEAVES:
            self.depends.leave(args[0], func.__name__)
        return func(*args, **(kwargs or {}))


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
