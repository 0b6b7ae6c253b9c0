"""The page of realised_speedup: a row a cell, medians beside the targets, and what was missed."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
from importlib.metadata import version
from typing import Any

import torch
from _record import in_words, several

from torchbonsai.cost.latency import device_name

Entry = dict[str, Any]
_NEVER = 0.98
"""Slower than this is slower: two medians of one network in turns differ by as much."""


def target(runtime: str, keep: float) -> float:
    """The least speed-up ÷ MAC ratio that is aimed at: 0.95 on the best runtime, 0.9 in the others down to 50 %."""
    if runtime == "onnxruntime":
        return 0.95
    return 0.9 if keep >= 0.5 else 0.0


def machine(device: str) -> str:
    """The chip, how many cores this process may use, and the versions that decide a time."""
    packages = ("torch", "onnxruntime", "onnxscript", "torch-pruning", "torchvision", "numpy")
    told = ", ".join(f"{name} {version(name)}" for name in packages)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{device_name(torch.device(device))}, {cores} cores, Python {platform.python_version()}, {told}"


def page(commands: list[str], entries: list[Entry]) -> str:
    """The whole page."""
    machines = sorted({e["row"]["machine"] for e in entries})
    threads = sorted({e["cell"]["threads"] for e in entries})
    lines = [
        "# Realised speed-up",
        "",
        f"{several(commands)}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC. {'; '.join(machines)}, "
        f"{' and '.join(map(str, threads))} thread(s).",
        "",
        "Speed-up over the dense network (medians over rounds in which dense, ours and torch-pruning took turns), the "
        "ratio of MACs, and one over the other. Ours: `tb.prune(budget=tb.Budget(macs=…, on=…))`; theirs: uniform, "
        "unrounded, as many MACs. Random weights; every runtime gives every network's outputs to 1e-3 of the largest. "
        "On a CPU eager PyTorch gets outputs above 32 MiB from the system page by page at every pass, unless glibc is "
        "told to keep memory (`MALLOC_MMAP_THRESHOLD_`, `MALLOC_TRIM_THRESHOLD_`: the command has them where they were "
        "set): where the dense network has such outputs and a small one has not, it gains more than its MACs.",
        "",
        "| network | MACs kept | batch | runtime | dense ms | n | ours: speed-up | MACs | ÷ "
        "| theirs: speed-up | MACs | ÷ | ours against theirs |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
        *(_row(entry) for entry in entries),
        "",
        *_medians(entries),
        *_missed(entries),
    ]
    return "\n".join(lines) + "\n"


def _row(entry: Entry) -> str:
    cell, times = entry["cell"], entry["row"]["times"]
    told = [cell["model"], f"{cell['keep']:.0%}", cell["batch"], cell["runtime"]]
    told += [f"{times['dense']['median_ms']:.1f}", times["ours"]["n"]]
    for arm in ("ours", "torch-pruning"):
        told += [f"{times[arm]['speed_up']:.2f}", f"{_macs(entry, arm):.2f}", f"{_follows(entry, arm):.2f}"]
    told.append(f"{entry['row']['against_theirs']:.2f}")
    return f"| {' | '.join(map(str, told))} |"


def _macs(entry: Entry, arm: str) -> float:
    return entry["row"]["macs"]["dense"] / entry["row"]["macs"][arm]


def _follows(entry: Entry, arm: str) -> float:
    return entry["row"]["times"][arm]["speed_up"] / _macs(entry, arm)


def _medians(entries: list[Entry]) -> list[str]:
    lines = ["Median of speed-up ÷ MAC ratio:", ""]
    for runtime in dict.fromkeys(e["cell"]["runtime"] for e in entries):
        mine = [e for e in entries if e["cell"]["runtime"] == runtime]
        aimed = [e for e in mine if target(runtime, e["cell"]["keep"])]
        of = [statistics.median(_follows(e, arm) for e in mine) for arm in ("ours", "torch-pruning")]
        line = f"- {runtime}: ours {of[0]:.2f}, theirs {of[1]:.2f} ({len(mine)} cells)"
        if aimed:
            middle = statistics.median(_follows(e, "ours") for e in aimed)
            line += f"; where a target stands, {middle:.2f} of {target(runtime, 0.5):.2f} ({len(aimed)} cells)"
        lines.append(line)
    return lines


def _missed(entries: list[Entry]) -> list[str]:
    lines = []
    for entry in entries:
        cell, row = entry["cell"], entry["row"]
        what = f"{cell['model']}, {cell['keep']:.0%}, batch {cell['batch']}, {cell['runtime']}"
        aim = target(cell["runtime"], cell["keep"])
        if _follows(entry, "ours") < aim:
            spent = "; the dense network's: ".join(in_words(row["profile"][arm]) for arm in ("ours", "dense"))
            lines.append(f"- {what}: {_follows(entry, 'ours'):.2f} of {aim}. Its time: {spent}")
        if row["times"]["ours"]["speed_up"] < _NEVER:
            lines.append(f"- {what}: slower than the dense network, {row['times']['ours']['speed_up']:.2f}x")
        if row["against_theirs"] < _NEVER:
            lines.append(f"- {what}: slower than torch-pruning's network, {row['against_theirs']:.2f}x")
    return (
        ["", f"Missed (slower is told from {1 - _NEVER:.0%} on):", "", *lines]
        if lines
        else ["", "No target was missed in any cell."]
    )
