"""Two seeds at once: two processes of one thread, or one process of two threads?

    python benchmarks/seeds_at_once.py [--networks lenet resnet20] [--cifar10 FOLDER] [--rounds 3] [--images 512]
        [--device cpu]

The study's own executor trains two seeds of each network, an epoch in batches of 128: side by side in two
worker processes of one thread, or one after the other in one process of two threads (on CUDA, where threads do not
matter: two processes or one). Both arrangements are warm, and take turns; told is the median wall time of the pair.
Writes results/seeds_at_once.json and .md. What it says decides `study.executor.default_workers`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _record import command, commit, is_here
from _trained import restored

from torchbonsai.cost.latency import device_name
from torchbonsai.data import DataConfig
from torchbonsai.models import ModelConfig
from torchbonsai.study import stages  # noqa: F401  registers the kinds of stages
from torchbonsai.study.executor import Workers
from torchbonsai.study.numerics import Numerics
from torchbonsai.study.runner import run
from torchbonsai.study.stage import Stage
from torchbonsai.study.stages.images import found
from torchbonsai.study.stages.start import NewWeights
from torchbonsai.study.stages.train import Train
from torchbonsai.study.store import Store, versions
from torchbonsai.training import TrainConfig

ARRANGEMENTS = {"2 processes x 1 thread": (2, 1), "1 process x 2 threads": (1, 2)}
RESULTS = Path(__file__).parent.parent / "results"


def main() -> None:
    """Measure every network, write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["lenet", "resnet20"])
    parser.add_argument("--cifar10", type=Path, help="folder of the python batches; else restored from the shared data")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS / "seeds_at_once.json")
    options = parser.parse_args()
    if not is_here(options.device):
        return
    rows = {name: measured(name, options) for name in options.networks}
    record = {
        "command": command(__file__),
        "commit": commit(),
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        "hardware": f"{device_name(torch.device(options.device))}, {os.cpu_count()} cores",
        "versions": versions(),
        "rounds": options.rounds,
        "images": options.images,
        "seconds": rows,
    }
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(page(record))
    print(page(record))


def measured(name: str, options: argparse.Namespace) -> dict[str, list[float]]:
    """Arrangement -> seconds of a pair of trainings, a number a round after one that is not counted."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        workers = {k: Workers(store, count, threads=threads) for k, (count, threads) in ARRANGEMENTS.items()}
        times: dict[str, list[float]] = {k: [] for k in ARRANGEMENTS}
        try:
            for number in range(options.rounds + 1):
                for arrangement, (_, threads) in ARRANGEMENTS.items():
                    begun, pair, places = listed(name, number, threads, options)
                    run(begun, store, workers[arrangement], places=places)
                    start = time.perf_counter()
                    run(pair, store, workers[arrangement], places=places)
                    if number:
                        times[arrangement].append(round(time.perf_counter() - start, 3))
        finally:
            for executor in workers.values():
                executor.close()
    return times


def listed(
    name: str, number: int, threads: int, options: argparse.Namespace
) -> tuple[list[Stage], list[Stage], dict[str, str]]:
    """New weights, and the trainings of two seeds, which no other round has; where the images lie."""
    set_name = "fashion-target-28" if name == "lenet" else "cifar10"
    folder = None if name == "lenet" else str(options.cifar10 or restored())
    data, splits, places = found(DataConfig(set_name, folder, options.images))
    model = ModelConfig(name, splits.in_shape, splits.classes)
    training = [TrainConfig(1, lr=0.01, augment=("crop", "flip"), seed=2 * number + i) for i in range(2)]
    begun = [Stage(NewWeights(model, data, t.seed)) for t in training]
    numerics = Numerics(threads, options.device)
    return begun, [Stage(Train(data, t, numerics), {"model": b}) for t, b in zip(training, begun, strict=True)], places


def page(record: dict[str, Any]) -> str:
    """The table."""
    first, second = ARRANGEMENTS
    lines = [
        "# Two seeds at once",
        "",
        f"`{record['command']}`, {record['date']}. {record['hardware']}; torch {record['versions']['torch']}. "
        f"Seconds for both, {record['images']} images each, median of n = {record['rounds']} turns.",
        "",
        f"| network | {first} | {second} | times faster at once |",
        "|---|---|---|---|",
    ]
    for name, times in record["seconds"].items():
        a, b = (float(np.median(times[k])) for k in ARRANGEMENTS)
        lines.append(f"| {name} | {a:.2f} | {b:.2f} | {b / a:.2f} |")
    middle = statistics.median(float(np.median(t[second]) / np.median(t[first])) for t in record["seconds"].values())
    return "\n".join([*lines, "", f"{first}: {middle:.2f} times as fast in the median of the networks.", ""])


if __name__ == "__main__":
    main()
