"""`python benchmarks/fuzz.py N [--workers W] [--seed S]`: N random networks, every cut checked against two references.

Writes results/fuzz.json: counts, what became of every hazard, failures, command, versions. Exit code 1 if any failed.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import hypothesis
import numpy
import torch
from _record import command, commit
from _zoo_summary import machine

import torchbonsai
from torchbonsai.testing.fuzz import Tally, fuzz

RESULTS = Path(__file__).resolve().parent.parent / "results" / "fuzz.json"
CHUNK = 250


def chunk(job: tuple[int, int]) -> Tally:
    """(how many, seed) -> what became of them."""
    torch.set_num_threads(1)
    tally = Tally()
    fuzz(job[0], job[1], tally, stop=False)
    return tally


def merged(tallies: list[Tally]) -> Tally:
    """The sum of all."""
    total = Tally()
    for tally in tallies:
        for name in ("networks", "exact", "inexact", "whole"):
            setattr(total, name, getattr(total, name) + getattr(tally, name))
        total.largest_error = max(total.largest_error, tally.largest_error)
        total.failures += tally.failures
        for name, fates in tally.fates.items():
            total.fates[name] += fates
    return total


def record(total: Tally, seconds: float) -> dict[str, object]:
    """Everything that is needed to judge the run, and to run it again."""
    versions = {m.__name__: m.__version__ for m in (torch, numpy, hypothesis, torchbonsai)}
    counts = asdict(total)
    del counts["fates"], counts["failures"]
    return {
        "command": command(__file__),
        "commit": commit(),
        "machine": machine(),
        "counts": counts,
        "failures": total.failures,
        "fates": {name: dict(sorted(fates.items())) for name, fates in sorted(total.fates.items())},
        "never_removed": sorted(name for name, fates in total.fates.items() if not fates["removed"]),
        "seconds": round(seconds, 1),
        "tolerances": {"masked": 1e-9, "poisoned": 1e-9, "dtype": "float64"},
        "versions": versions | {"python": platform.python_version()},
    }


def main() -> int:
    """Run, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("n", type=int)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    sizes = [min(CHUNK, options.n - start) for start in range(0, options.n, CHUNK)]
    jobs = [(size, options.seed + k) for k, size in enumerate(sizes)]
    start = time.perf_counter()
    tallies: list[Tally] = []
    with ProcessPoolExecutor(options.workers) as pool:
        for tally in pool.map(chunk, jobs):
            tallies.append(tally)
            done = merged(tallies)
            print(f"{done.networks} networks, {len(done.failures)} failures", flush=True)
    total = merged(tallies)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record(total, time.perf_counter() - start), indent=1, sort_keys=True)
    options.out.write_text(text + "\n", encoding="utf-8")
    for name, fates in sorted(total.fates.items()):
        print(f"{name:28s}" + "  ".join(f"{fate} {n}" for fate, n in sorted(Counter(fates).items())))
    print(*total.failures[:20], sep="\n")
    return 1 if total.failures else 0


if __name__ == "__main__":
    sys.exit(main())
