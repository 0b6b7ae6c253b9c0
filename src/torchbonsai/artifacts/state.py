"""What a module holds beyond its code: tensors, flags, layouts; taken off one module, put onto another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from torchbonsai.core.errors import ArtifactError, message


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers (those outside the state dict too), tied ones once, under the first name."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    lazy = [name for name, tensor in named.items() if is_lazy(tensor)]
    if lazy:
        raise _cannot("a network whose parameters have shapes", f"uninitialised {lazy[:3]}", "run it once on an input")
    return named


def stored(model: nn.Module) -> dict[str, Tensor]:
    """`tensors_of` as contiguous CPU tensors that share no memory. Raises ArtifactError for extra state."""
    extra = [name for name in model.state_dict() if name.endswith("_extra_state")]
    if extra:
        raise _cannot(
            "a network whose state is tensors",
            f"extra state {extra[:3]}",
            "save it with torch.save, or drop that state",
        )
    return {name: torch.empty(t.shape, dtype=t.dtype).copy_(t.detach()) for name, t in tensors_of(model).items()}


def flags_of(model: nn.Module) -> dict[str, Any]:
    """As JSON: modules in training mode, parameters without gradient, and strides where they are not the usual ones."""
    strides = {name: _strides(tensor) for name, tensor in tensors_of(model).items()}
    return {
        "training": [name for name, module in model.named_modules() if module.training],
        "without_gradient": [name for name, p in model.named_parameters() if not p.requires_grad],
        "strides": {name: stride for name, stride in strides.items() if stride},
    }


def fill(model: nn.Module, tensors: Mapping[str, Tensor], flags: Mapping[str, Any]) -> None:
    """Give `model` these tensors (dtype and layout included) and flags; its own must have the same names and shapes.

    Raises ArtifactError that names the first differences.
    """
    own = tensors_of(model)
    wrong = [f"{name}: missing in the folder" for name in own if name not in tensors]
    wrong += [f"{name}: not in the model" for name in tensors if name not in own]
    wrong += [
        f"{name}: {tuple(tensors[name].shape)} in the folder, {tuple(tensor.shape)} in the model"
        for name, tensor in own.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    if wrong:
        raise ArtifactError(
            message(
                "the rebuilt model must have the saved tensors, by name and shape",
                "; ".join(wrong[:4]) + (f"; and {len(wrong) - 4} more" if len(wrong) > 4 else ""),
                "build makes another model than the one that was pruned",
                "pass build=, a callable that makes the dense model as it was",
            )
        )
    for name, tensor in own.items():
        value, stride = tensors[name], flags["strides"].get(name)
        # Into memory of PyTorch's own: in a file's, weights are aligned differently, and kernels round differently.
        fresh = value.new_empty(value.shape) if stride is None else value.new_empty_strided(value.shape, stride)
        tensor.data = fresh.copy_(value)
    training = set(flags["training"])
    for name, module in model.named_modules():
        module.training = name in training
    without_gradient = set(flags["without_gradient"])
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() or parameter.is_complex():
            parameter.requires_grad_(name not in without_gradient)


def _strides(tensor: Tensor) -> list[int] | None:
    """None for the usual layout; else that of a dense copy (channels last, say), which decides which kernel runs."""
    usual = torch.empty(tensor.shape, device="meta").stride()
    own = torch.empty_like(tensor, device="meta").stride()
    return None if own == usual else list(own)


def _cannot(must: str, got: str, way_out: str) -> ArtifactError:
    return ArtifactError(message(f"saving needs {must}", got, "state that is not tensors of known shape", way_out))
