"""One network, one arm, in a process of its own; prints one JSON record as its last line.

python benchmarks/_zoo_worker.py ENTRY_JSON {torchbonsai,torch-pruning} SECONDS
"""

from __future__ import annotations

import copy
import json
import os
import resource
import sys
import time
import traceback
import warnings
from collections import Counter
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
import _zoo_twin
import torch
from _zoo_build import build
from torch import nn

MEMORY_LIMIT = 14 << 30
OUTPUT = "it is an output of the model"


def main() -> None:
    """Run and print; an exception of the arm is a record, too."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CPU, (int(float(sys.argv[3])), resource.RLIM_INFINITY))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    entry, arm = json.loads(sys.argv[1]), sys.argv[2]
    record: dict[str, Any] = {"name": entry["name"], "arm": arm}
    try:
        start = time.perf_counter()
        model, x = build(entry)
        record["build_s"] = time.perf_counter() - start
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
    print("\n" + json.dumps(record))


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
    record |= runs(model, result.model, x)
    kept = result.graph.keep(result.selection)
    try:
        checked = clock.run("verify", verify, result.graph, result.plan, kept, model, result.model, x)
    except tb.VerificationError as problem:
        return record | {"status": "wrong", "error": str(problem)[:300], "twin": twin(model, result, x)}
    record |= {"exact": checked.exact, "rel_error": checked.max_rel_error, "dtype": checked.dtype}
    record |= {"reason": checked.reason[:400], "status": "verified" if checked.exact else "flagged"}
    if checked.max_rel_error is None:
        record["status"] = "unverified"
    return record | {"twin": twin(model, result, x)}


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
    """Does the small network run in eval and in train mode, where the dense one does?"""
    found: dict[str, Any] = {}
    for mode, data in (("eval", x), ("train", torch.cat([x, x]))):
        outcome = []
        for model in (dense, small):
            trial = copy.deepcopy(model).train(mode == "train")
            try:
                with torch.no_grad():
                    trial(data)
                outcome.append("")
            except Exception as problem:  # noqa: BLE001 - a record of what does not run
                outcome.append(f"{type(problem).__name__}: {str(problem)[:200]}")
        found[f"runs_{mode}"] = not outcome[1] or bool(outcome[0])
        if outcome[1]:
            found[f"{mode}_error"] = outcome[1] + (" (the dense one, too)" if outcome[0] else "")
    return found


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

if __name__ == "__main__":
    main()
