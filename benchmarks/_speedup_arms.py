"""The two small networks of a cell, their MACs, that runtimes agree on them, and what their time is spent on."""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _record import by_op, shares
from torch import nn

import torchbonsai as tb
from torchbonsai.artifacts.forms import open_session
from torchbonsai.cost.macs import CostModel
from torchbonsai.graph.trace import observe

TOLERANCE = 1e-3
_CLOSE = 0.01


def macs_of(model: nn.Module, x: torch.Tensor) -> int:
    """Of a forward on x."""
    return CostModel(observe(model, x)).dense.macs


def ours(model: nn.Module, x: torch.Tensor, keep: float, on: str) -> tuple[nn.Module, dict[str, Any]]:
    """Widths that the device likes, and the layers that are slow there narrower first; the budget is on MACs.

    Verified for single pictures; the routing is proved for all.
    """
    result = tb.prune(model, x, budget=tb.Budget(macs=keep, on=on), verify=x.shape[0] == 1)
    told = str(result.verification) if x.shape[0] == 1 else "proved; compared at batch 1"
    widths = {name: int(mask.sum()) for name, mask in result.selection.items()}
    return result.model, {"verification": told, "widths": widths}


def torch_pruning(model: nn.Module, x: torch.Tensor, macs: int) -> tuple[nn.Module, dict[str, Any]]:
    """Uniform and unrounded, with about `macs`: the share of channels is found by bisection on what comes out."""
    low, high = 0.0, 0.95
    best: tuple[float, nn.Module, float] | None = None
    for _ in range(12):
        share = (low + high) / 2
        small = _pruned(model, x, share)
        off = macs_of(small, x) / macs - 1
        if best is None or abs(off) < abs(best[0]):
            best = (off, small, share)
        if abs(off) < _CLOSE:
            break
        low, high = (share, high) if off > 0 else (low, share)
    assert best is not None
    return best[1], {"channels_removed": best[2], "off_in_macs": best[0]}


def _pruned(model: nn.Module, x: torch.Tensor, share: float) -> nn.Module:
    import torch_pruning as tp

    small = copy.deepcopy(model)
    head = [m for m in small.modules() if isinstance(m, nn.Linear) and m.out_features == 1000]
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    tp.pruner.BasePruner(small, x, importance=importance, pruning_ratio=share, ignored_layers=head).step()
    return small.eval()


def disagreement(expected: torch.Tensor, found: torch.Tensor) -> float:
    """The largest difference of two runtimes' outputs over the largest output. Raises where it is above 1e-3."""
    off = float((expected - found).abs().max() / expected.abs().max())
    if not off <= TOLERANCE:
        raise AssertionError(f"runtimes disagree on one network: {off:.1e} of the largest output")
    return off


def spent(x: torch.Tensor, runtime: str, loaded: Any, run: Callable[[], Any], threads: int) -> dict[str, float]:
    """Shares of the time of one network, as it runs there, by op or kernel, the largest first: what bounds it."""
    if runtime == "onnxruntime":
        return shares(_spent_onnx(x, loaded, threads))
    with torch.inference_mode():
        return by_op(lambda: [run() for _ in range(3)])


def _spent_onnx(x: torch.Tensor, loaded: Any, threads: int) -> Counter[str]:
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(loaded.raw, threads, os.path.join(folder, "profile"))
        feed = {session.get_inputs()[0].name: x.numpy()}
        for _ in range(4):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    times: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["args"]["op_name"]] += event["dur"]
    return times
