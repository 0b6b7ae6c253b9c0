"""Speed: trace + magnitude scores + plan + proof + surgery, beside torch-pruning's graph + groups + importance + prune.

    python benchmarks/speed.py [--models resnet50 …] [--repeats 5] [--size 224]

Both arms run in turns in one process with one thread, half of every layer's channels by L2 magnitude, and the median
of the repeats is told, after one repeat that is not counted. Wall and processor seconds: on a busy machine the wall
says more of the neighbours. A network where either arm removed less than 90 % of what the other did is not compared.
The default call, numeric verification included, is timed beside them and in no ratio.
Writes results/speed.json and results/speed.md, unless --out names another file.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
import torch
from _record import command, commit
from _speed_phases import phases
from _zoo_build import build
from _zoo_summary import machine
from torch import nn

TARGET, SLACK_S = 3.0, 0.02
"""How many times faster in the median, and how many seconds slower at most anywhere."""
MODELS = "vgg16_bn resnet18 resnet50 densenet121 mobilenet_v2 efficientnet_b0 convnext_tiny vit_b_16".split()
RESULTS = Path(__file__).parent.parent / "results"
ENOUGH = 0.9
Timing = dict[str, float]


def main() -> None:
    """Time every model, print a row each, write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--out", type=Path, default=RESULTS / "speed.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = []
    for name in options.models:
        rows.append(measure(name, options.size, options.repeats))
        print(row_text(rows[-1]), flush=True)
    options.out.parent.mkdir(exist_ok=True)
    record = {**made_by(), "repeats": options.repeats, "summary": summary(rows), "rows": rows}
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(page(record))


def made_by() -> dict[str, Any]:
    """The command, and all that a measured second depends on."""
    return {
        "command": command(__file__),
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        "commit": commit(),
        "made_on": machine(),
        "threads": torch.get_num_threads(),
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Median ratio and the networks that are slower than allowed, by either clock; of the compared networks."""
    compared = [r for r in rows if r["compared"]]
    found: dict[str, Any] = {"compared": len(compared), "of": len(rows)}
    for clock in ("wall_s", "cpu_s") if compared else ():
        slower = [r["model"] for r in compared if loss(r, clock) > SLACK_S]
        found[clock] = {"median_ratio": statistics.median(ratio(r, clock) for r in compared), "slower": slower}
    return found


def loss(row: dict[str, Any], clock: str) -> float:
    """How many seconds slower ours is."""
    return row["arms"]["ours"][clock] - row["arms"]["torch-pruning"][clock]


def measure(name: str, size: int, repeats: int) -> dict[str, Any]:
    """Both arms on one network, in turns."""
    model, x = build({"name": f"torchvision:{name}", "kwargs": {}, "input": [1, 3, size, size]})
    dense = sum(p.numel() for p in model.parameters())
    arms: dict[str, Callable[[nn.Module, torch.Tensor], nn.Module]] = {
        "ours": ours,
        "torch-pruning": torch_pruning,
        "ours, verified": ours_verified,
    }
    row: dict[str, Any] = {"model": name, "params": dense, "arms": {}}
    times: dict[str, list[Timing]] = {arm: [] for arm in arms}
    for repeat in range(repeats + 1):
        for arm, run in arms.items():
            given = copy.deepcopy(model)
            small, timing = clocked(run, given, x)
            if repeat:
                times[arm].append(timing)
            removed = 1 - sum(p.numel() for p in small.parameters()) / dense
            row["arms"][arm] = {"removed": removed}
    for arm, listed in times.items():
        for clock in ("wall_s", "cpu_s"):
            row["arms"][arm][clock] = statistics.median(t[clock] for t in listed)
            row["arms"][arm][f"all_{clock}"] = [round(t[clock], 4) for t in listed]
    a, b = row["arms"]["ours"]["removed"], row["arms"]["torch-pruning"]["removed"]
    row["compared"] = min(a, b) >= ENOUGH * max(a, b)
    row["phases_ms"] = phases(ours, model, x)
    return row


def clocked(run: Callable[..., nn.Module], model: nn.Module, x: torch.Tensor) -> tuple[nn.Module, Timing]:
    """run(model, x) and its seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    small = run(model, x)
    return small, {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


def ours(model: nn.Module, x: torch.Tensor, verify: bool = False) -> nn.Module:
    """Without the numeric verification; the proof of the routing is always made."""
    import torchbonsai as tb

    magnitude = tb.criteria.Magnitude(p=2)
    return tb.prune(model, x, budget=tb.Budget(channels=0.5), criterion=magnitude, scope="uniform", verify=verify).model


def ours_verified(model: nn.Module, x: torch.Tensor) -> nn.Module:
    """The default call."""
    return ours(model, x, verify=True)


def torch_pruning(model: nn.Module, x: torch.Tensor) -> nn.Module:
    """Graph, groups, importance and prune; the classifier's outputs are left alone."""
    import torch_pruning as tp

    head = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == 1000]
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    tp.pruner.BasePruner(model, x, importance=importance, pruning_ratio=0.5, ignored_layers=head).step()
    return model


def row_text(row: dict[str, Any]) -> str:
    """One line of the terminal."""
    cells = [
        f"{arm} {t['wall_s']:.3f} s ({t['cpu_s']:.3f} cpu, {t['removed']:.1%} gone)" for arm, t in row["arms"].items()
    ]
    return f"{row['model']:16}" + "  ".join(cells)


def ratio(row: dict[str, Any], clock: str) -> float:
    """How many times faster ours is."""
    return row["arms"]["torch-pruning"][clock] / row["arms"]["ours"][clock]


def page(record: dict[str, Any]) -> str:
    """The table, with its medians held against the target."""
    lines = [
        "# Speed beside torch-pruning",
        "",
        f"`{record['command']}`, {record['date']}, commit {record['commit']}. {record['made_on']}, "
        f"{record['threads']} thread.",
        "",
        f"Seconds, wall / processor, each the median of {record['repeats']} runs, the arms in turns in one process. "
        "Ours without numeric verification: trace, scores, plan, proof, surgery; theirs: graph, groups, importance, "
        "prune. The last column is the default call, numeric verification included.",
        "",
        "| network | ours | theirs | times faster (wall) | (processor) | gone, ours | gone, theirs | default call |",
        "|---|---|---|---|---|---|---|---|",
        *(table_row(row) for row in record["rows"]),
        "",
        *verdict(record["summary"]),
        "",
        *where(record["rows"]),
    ]
    return "\n".join(lines) + "\n"


def table_row(row: dict[str, Any]) -> str:
    """One network."""
    ours_, theirs, default = (row["arms"][k] for k in ("ours", "torch-pruning", "ours, verified"))
    told = [f"{ratio(row, clock):.2f}" if row["compared"] else "not compared" for clock in ("wall_s", "cpu_s")]
    times = [f"{arm['wall_s']:.3f} / {arm['cpu_s']:.3f}" for arm in (ours_, theirs, default)]
    gone = [f"{arm['removed']:.1%}" for arm in (ours_, theirs)]
    return "| " + " | ".join([row["model"], *times[:2], *told, *gone, times[2]]) + " |"


def where(rows: list[dict[str, Any]]) -> list[str]:
    """Where the time of one more run of ours went."""
    names = list(rows[0]["phases_ms"])
    return [
        "Where the time of one further run of ours goes, in processor milliseconds. A call makes four passes, of the "
        "large and of the small network, in eval and in train mode. A bare pass is one eval forward on the meta device "
        "under a dispatch mode that only counts ops.",
        "",
        "| " + " | ".join(["network", *names]) + " |",
        "|" + "---|" * (len(names) + 1),
        *("| " + " | ".join([r["model"], *(str(r["phases_ms"][n]) for n in names)]) + " |" for r in rows),
    ]


def verdict(found: dict[str, Any]) -> list[str]:
    """What the target asks, and what was measured."""
    asked = f"The target: {TARGET:.0f} times faster in the median, nowhere slower by more than {SLACK_S * 1000:.0f} ms."
    lines = [f"{asked} Compared: {found['compared']} of {found['of']} networks."]
    for clock, name in (("wall_s", "the wall"), ("cpu_s", "processor time")):
        if clock in found:
            slower = ", ".join(found[clock]["slower"]) or "none"
            lines.append(f"By {name}: {found[clock]['median_ratio']:.2f} times; slower than allowed: {slower}.")
    return lines


if __name__ == "__main__":
    main()
