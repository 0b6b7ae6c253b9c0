"""Attributes of torch.nn's modules that repeat the shape of their tensors."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from torchbonsai.graph.forward import walk
from torchbonsai.surgery.plan import AttributeEdit

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
PER_CHANNEL = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)
Narrowed = Mapping[str, Mapping[int, torch.Tensor]]


def standard_edits(
    model: nn.Module, kept: Narrowed, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[AttributeEdit, ...]:
    """How `in_channels`, `num_features`, `normalized_shape` and the like change under `kept`."""
    touched = {n.rpartition(".")[0].split(".parametrizations")[0] for n in kept}
    edits: list[AttributeEdit] = []
    for path, module in walk(model):
        if path not in touched:
            continue
        prefix = f"{path}." if path else ""
        after, stays = _small_shapes(prefix, module, kept, shapes)
        for attribute, new in _expected(module, after, stays).items():
            old = getattr(module, attribute)
            if old != new:
                edits.append(AttributeEdit(path, attribute, old, new))
    return tuple(edits)


def _small_shapes(
    prefix: str, module: nn.Module, kept: Narrowed, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, tuple[int, ...]], dict[str, torch.Tensor]]:
    """The shapes that the module's own weight and bias will have, and what stays along their first axis if not all."""
    found: dict[str, tuple[int, ...]] = {}
    stays: dict[str, torch.Tensor] = {}
    for short in ("weight", "bias", "running_mean", "in_proj_weight"):
        value = getattr(module, short, None)
        if not isinstance(value, torch.Tensor):
            continue
        names = [prefix + short, f"{prefix}parametrizations.{short}.original"]
        names += [f"{prefix}parametrizations.{short}.original{k}" for k in (1, 0)]
        names += [f"{prefix}{short}_v", f"{prefix}{short}_orig"]  # torch.nn.utils.weight_norm and spectral_norm
        name = next((n for n in names if n in kept), None)
        axes = kept[name] if name is not None else {}
        same_rank = name is None or len(shapes[name]) == value.dim()
        found[short] = tuple(len(axes[a]) if same_rank and a in axes else n for a, n in enumerate(value.shape))
        if 0 in axes:
            stays[short] = axes[0]
    return found, stays


def _blocks(stays: torch.Tensor | None, count: int, size: int) -> int:
    """Of `count` blocks of positions, each `size` long, how many keep any? stays: None for all positions."""
    return count if stays is None else int(torch.unique(stays // size % count).numel())


def _expected(
    module: nn.Module, after: Mapping[str, tuple[int, ...]], stays: Mapping[str, torch.Tensor]
) -> dict[str, Any]:
    weight = after.get("weight", ())
    if isinstance(module, CONVOLUTIONS) and weight:
        return _convolution(module, weight)
    if isinstance(module, nn.Linear) and weight:
        return {"out_features": weight[0], "in_features": weight[1]}
    if isinstance(module, PER_CHANNEL) and (weight or "running_mean" in after):
        return {"num_features": (weight or after["running_mean"])[0]}
    if isinstance(module, nn.LayerNorm | nn.RMSNorm) and weight:
        return {"normalized_shape": tuple(weight)}
    if isinstance(module, nn.GroupNorm) and weight:
        groups = _blocks(stays.get("weight"), module.num_groups, module.num_channels // module.num_groups)
        return {"num_channels": weight[0], "num_groups": groups}
    if isinstance(module, nn.PReLU) and module.num_parameters > 1:
        return {"num_parameters": weight[0]}
    if isinstance(module, nn.MultiheadAttention) and "in_proj_weight" in after:
        rows, width = after["in_proj_weight"]
        heads = _blocks(stays.get("in_proj_weight"), module.num_heads, module.head_dim)
        if rows == 3 * width and width % heads == 0:
            shared = {"embed_dim": width, "kdim": width, "vdim": width}
            return shared | {"num_heads": heads, "head_dim": width // heads}
        return {}
    if isinstance(module, nn.Embedding) and weight:
        return {"num_embeddings": weight[0], "embedding_dim": weight[1]}
    if isinstance(module, nn.Bilinear) and weight:
        return {"out_features": weight[0], "in1_features": weight[1], "in2_features": weight[2]}
    return {}


def _convolution(module: Any, weight: tuple[int, ...]) -> dict[str, Any]:
    """Groups shrink with the channels where a group has one input channel; else they stay."""
    transposed = isinstance(module, TRANSPOSED)
    groups = module.groups
    if groups > 1 and groups == module.in_channels:
        per_group = module.out_channels // groups
        groups = weight[0] if transposed else weight[0] // per_group
    if transposed:
        return {"in_channels": weight[0], "out_channels": weight[1] * groups, "groups": groups}
    return {"in_channels": weight[1] * groups, "out_channels": weight[0], "groups": groups}


_WIDTH = re.compile(
    r"channel|feature|dim|width|plane|filter|hidden|embed|size|^(c|n|in|out|inp|oup)\d*_?$", re.IGNORECASE
)


def user_edits(model: nn.Module, kept: Narrowed, shapes: Mapping[str, tuple[int, ...]]) -> tuple[AttributeEdit, ...]:
    """Attributes of the user's own classes that keep a width, by name and value, where only one new width fits.

    A guess: the caller drops it if the forward no longer runs as it must.
    """
    touched = {prefix for name in kept for prefix in _prefixes(name)}
    widths: dict[str, dict[str, int]] = {}
    for path, module in walk(model):
        if path in touched and not type(module).__module__.startswith("torch.nn."):
            found = {k: v for k, v in vars(module).items() if type(v) is int and v > 1 and _WIDTH.search(k)}
            if found:
                widths[path] = found
    sizes = _sizes_below(widths, model, kept)
    return tuple(
        AttributeEdit(path, k, v, new)
        for path, ints in widths.items()
        for k, v in ints.items()
        if len(fits := sizes[path].get(v, set())) == 1 and (new := next(iter(fits))) != v
    )


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")[:-1]
    return [".".join(parts[:k]) for k in range(len(parts) + 1)]


def _sizes_below(paths: Iterable[str], model: nn.Module, kept: Narrowed) -> dict[str, dict[int, set[int]]]:
    """Path -> old size -> the sizes that axes of this size become, for all tensors of a module and its children."""
    sizes: dict[str, dict[int, set[int]]] = {path: defaultdict(set) for path in paths}
    for name, tensor in model.named_parameters(remove_duplicate=False) if sizes else ():
        axes = kept.get(name, {})
        changes = [(n, len(axes[axis]) if axis in axes else n) for axis, n in enumerate(tensor.shape)]
        for prefix in _prefixes(name):
            if prefix in sizes:
                for n, new in changes:
                    sizes[prefix][n].add(new)
    return sizes
