"""The other arm: torch-pruning, half of every layer at random, one shot, no hints but the output layers.

Its result is judged by the same twin that knows no graph. What it kept is read off the values: every weight of the
dense network is made unique first, so a small tensor says where its entries came from.
"""

from __future__ import annotations

import copy
from typing import Any

import _zoo_twin
import torch
from torch import nn

TOLERANCE = 1e-9


def torch_pruning(model: nn.Module, x: torch.Tensor) -> dict[str, Any]:
    """A record; `status`: verified, different (silently), or failed with the stage that raised."""
    import torch_pruning as tp
    from _zoo_worker import Clock, count, runs

    clock = Clock()
    dense, x = model.double(), x.double()
    make_unique(dense)
    small = copy.deepcopy(dense)
    torch.manual_seed(0)
    record: dict[str, Any] = {"status": "failed", "timing": clock.parts}
    try:
        record["stage"] = "graph"
        pruner = clock.run(
            "graph",
            tp.pruner.BasePruner,
            small,
            x,
            importance=tp.importance.RandomImportance(),
            pruning_ratio=0.5,
            ignored_layers=output_layers(small, x),
        )
        record["stage"] = "prune"
        clock.run("prune", pruner.step)
        record["stage"] = "run"
        small.eval()
        with torch.no_grad():
            out = small(x)
    except Exception as problem:  # noqa: BLE001 - whatever it is, it is the tool's result
        return record | {"error": f"{type(problem).__name__}: {str(problem)[:300]}"}
    record |= {"stage": "done", "params_after": count(small)} | runs(dense, small, x)
    kept = read_off(dense, small)
    _zoo_twin.mask(dense, kept)
    with torch.no_grad():
        error = _zoo_twin.error(dense.eval()(x), out)
    right = error < TOLERANCE
    record |= {"twin": error, "status": "verified" if right else "different"}
    if right and not record["runs_train"]:
        record["status"] = "failed"
        record["error"] = record.get("train_error", "")
    return record


def make_unique(model: nn.Module) -> None:
    """New values of the same scale, no two alike in one tensor, so that kept entries can be told by value."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.is_floating_point() and tensor.numel() > 1:
                scale, middle = tensor.std().item() or 0.05, tensor.mean().item()
                noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                tensor.copy_(middle + scale * noise)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
                noise = torch.rand(module.running_var.shape, generator=generator, dtype=torch.float64)
                module.running_var.copy_(0.75 + 0.5 * noise)
                module.running_mean.copy_(0.1 * (noise - 0.5))


def output_layers(model: nn.Module, x: torch.Tensor) -> list[nn.Module]:
    """Layers as wide as an output: the one hint that the tool cannot do without."""
    with torch.no_grad():
        widths = {t.shape[1] for t in _zoo_twin._tensors(copy.deepcopy(model)(x)) if t.dim() > 1}
    of = [(m, getattr(m, "out_channels", getattr(m, "out_features", None))) for m in model.modules()]
    return [m for m, width in of if width in widths]


def read_off(dense: nn.Module, small: nn.Module) -> _zoo_twin.Kept:
    """Which positions of every narrowed parameter stayed. Raises ValueError where a value came from elsewhere."""
    large = dict(dense.named_parameters())
    kept: _zoo_twin.Kept = {}
    for name, tensor in small.named_parameters():
        if name not in large or tensor.shape == large[name].shape:
            continue
        values, order = large[name].detach().flatten().sort()
        mine = tensor.detach().flatten()
        at = torch.searchsorted(values, mine).clamp(max=values.numel() - 1)
        if not torch.equal(values[at], mine):
            raise ValueError(f"{name}: a value that the dense network does not have")
        places = torch.unravel_index(order[at], large[name].shape)
        changed = [a for a, (n, m) in enumerate(zip(large[name].shape, tensor.shape, strict=True)) if n != m]
        kept[name] = {a: places[a].unique() for a in changed}
    return kept
