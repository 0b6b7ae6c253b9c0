"""One network, one arm, in a process of its own, forked from one that has imported all that is needed."""

from __future__ import annotations

import copy
import importlib
import json
import re
import resource
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import _zoo_twin
import torch
from _zoo_build import build
from torch import nn

MEMORY_LIMIT = 14 << 30
OUTPUT = "it is an output of the model"
INSTALLED = re.compile(r"[^\s\"]*site-packages/|" + re.escape(str(Path(__file__).parents[1])) + "/")
"""Where packages lie on this machine, which concerns nobody."""
CHECK_SIZE = 96
"""Rows and columns of the input on which numbers are compared, where the network runs on them: float64 is costly."""
IMPORTS = {
    "torchbonsai": "torchbonsai",
    "torch-pruning": "torch_pruning",
    "timm": "timm",
    "torchvision": "torchvision",
    "pytorchcv": "pytorchcv.model_provider",
}


def prepare(arms: list[str], sources: set[str]) -> None:
    """Import once what every fork needs."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in [*arms, *sorted(sources)]:
        importlib.import_module(IMPORTS[name])


def main(entry: dict[str, Any], arm: str, limit: float, sender: Any) -> None:
    """Run and send the record; an exception of the arm is a record, too."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CPU, (int(limit), resource.RLIM_INFINITY))
    record: dict[str, Any] = {"name": entry["name"], "arm": arm}
    try:
        start = time.process_time()
        model, x = build(entry)
        record["build_cpu_s"] = round(time.process_time() - start, 3)
        record["params_before"] = count(model)
        record |= ARMS[arm](model, x)
    except Exception as problem:  # noqa: BLE001 - whatever it is, it is this network's result
        frames = traceback.extract_tb(problem.__traceback__)
        record |= {
            "status": "failed",
            "error": f"{type(problem).__name__}: {str(problem)[:600]}",
            "where": [f"{f.filename}:{f.lineno} {f.line}" for f in frames[-4:]],
        }
    record["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    record["cpu_s"] = round(time.process_time(), 1)
    sender.send_bytes(INSTALLED.sub("", json.dumps(record)).encode())


def count(model: nn.Module) -> int:
    """Parameters, tied ones once."""
    return sum(p.numel() for p in model.parameters())


class Clock:
    """Wall and processor seconds of named parts."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}

    def run(self, name: str, function: Any, *args: Any, **kwargs: Any) -> Any:
        """function(*args, **kwargs), timed as `name`."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            self.parts[f"{name}_s"] = round(time.perf_counter() - wall, 3)
            self.parts[f"{name}_cpu_s"] = round(time.process_time() - cpu, 3)


def ours(model: nn.Module, x: torch.Tensor) -> dict[str, Any]:
    """Half the channels of every group at random; the numeric check; both modes of the forward; the graphless twin."""
    import torchbonsai as tb
    from torchbonsai.surgery.verify import verify

    clock = Clock()
    result = clock.run(
        "plan",
        tb.prune,
        model,
        x,
        budget=tb.Budget(channels=0.5),
        criterion=tb.criteria.Random(seed=0),
        scope="uniform",
        verify=False,
    )
    record = _graph_facts(result, model) | {"status": "unverified", "timing": clock.parts}
    record |= clock.run("runs", runs, model, result.model, x)
    kept = result.graph.keep(result.selection)
    small_x = check_input(model, x)
    record["checked_at"] = list(small_x.shape)
    try:
        checked = clock.run("verify", verify, result.graph, result.plan, kept, model, result.model, small_x)
    except tb.VerificationError as problem:
        return record | {"status": "wrong", "error": str(problem)[:300], "twin": twin(model, result, small_x)}
    record |= {"exact": checked.exact, "rel_error": checked.max_rel_error, "dtype": checked.dtype}
    record |= {"reason": checked.reason[:400], "status": "verified" if checked.exact else "flagged"}
    if checked.max_rel_error is None:
        record["status"] = "unverified"
    return record | {"twin": clock.run("twin", twin, model, result, small_x)}


def check_input(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The first CHECK_SIZE rows and columns of x, or x where the network does not run on so little."""
    crop = x[..., :CHECK_SIZE, :CHECK_SIZE].contiguous()
    try:
        with torch.no_grad():
            copy.deepcopy(model)(crop)
    except Exception:  # noqa: BLE001 - whatever a forward raises on a size that is not its own
        return x
    return crop


def _graph_facts(result: Any, model: nn.Module) -> dict[str, Any]:
    graph = result.graph
    reasons = Counter()
    for f in graph.frozen:
        if f.reason != OUTPUT:
            reasons[f"{f.reason} | {f.source or ''}"] += f.size
    return {
        "params_after": count(result.model),
        "macs_before": result.cost.before.macs,
        "macs_after": result.cost.after.macs,
        "groups": len(graph.groups),
        "atoms": graph.n_atoms,
        "frozen_channels": sum(reasons.values()),
        "frozen": [{"channels": n, "why": why[:400]} for why, n in reasons.most_common(12)],
        "inexact": list(dict.fromkeys(f"{i.reason} | {i.source}"[:300] for i in result.plan.inexact))[:8],
        "edits": len(result.plan.edits),
        "unreached": list(graph.unreached[:8]),
        "notes": [n[:200] for n in result.notes[:4]],
    }


def runs(dense: nn.Module, small: nn.Module, x: torch.Tensor) -> dict[str, Any]:
    """Does the small network run in eval and in train mode, or does the dense one fail there, too?"""
    found: dict[str, Any] = {}
    for mode, data in (("eval", x), ("train", torch.cat([x, x]))):
        error = failure(small, data, mode == "train")
        found[f"runs_{mode}"] = not error
        if error and failure(dense, data, mode == "train"):
            found[f"runs_{mode}"] = True
            error += " (the dense one, too)"
        if error:
            found[f"{mode}_error"] = error
    return found


def failure(model: nn.Module, x: torch.Tensor, training: bool) -> str:
    """What a forward of a copy raises; empty where it runs."""
    trial = copy.deepcopy(model).train(training)
    try:
        with torch.no_grad():
            trial(x)
    except Exception as problem:  # noqa: BLE001 - a record of what does not run
        return f"{type(problem).__name__}: {str(problem)[:200]}"
    return ""


def twin(model: nn.Module, result: Any, x: torch.Tensor) -> float | None:
    """The relative error against the twin that knows no graph, float64; None where it cannot be told of this cut."""
    from torchbonsai.surgery.gates import gate_sites

    if result.plan.inexact or gate_sites(result.graph).activations:
        return None
    try:
        masked, small = copy.deepcopy(model).double().eval(), copy.deepcopy(result.model).double().eval()
        _zoo_twin.mask(masked, result.plan.kept)
        with torch.no_grad():
            return _zoo_twin.error(masked(x.double()), small(x.double()))
    except (RuntimeError, TypeError):
        return None


def peer(model: nn.Module, x: torch.Tensor) -> dict[str, Any]:
    """torch-pruning on the same network and input."""
    from _zoo_peer import torch_pruning

    return torch_pruning(model, x)


ARMS = {"torchbonsai": ours, "torch-pruning": peer}
