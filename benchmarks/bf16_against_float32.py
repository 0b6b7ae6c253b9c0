"""Speed without loss? ResNet-20 on CIFAR-10 trained in bf16 (channels_last) and in float32, seed by seed.

    python benchmarks/bf16_against_float32.py FOLDER_OF_THE_OFFICIAL_BATCHES [--seeds 3] [--limit-train 10000]
        [--epochs 10] [--work FOLDER]

Both arms of a seed have the same first weights, order of images and augmentation. Told: test accuracies, the paired
difference with its t-interval over the trainings, and the seconds of the trainings (two processes of one thread at
once). Every training is a stage of the one runner in --work, so that the same command goes on where it stopped.
Writes results/bf16_against_float32.json and .md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
from pathlib import Path
from typing import Any

import torch
from _record import command, commit, is_here

from torchbonsai.cost.latency import device_name
from torchbonsai.data import DataConfig
from torchbonsai.models import ModelConfig
from torchbonsai.study import stages  # noqa: F401  registers the kinds of stages
from torchbonsai.study.executor import InProcess, Workers, default_workers
from torchbonsai.study.numerics import Numerics
from torchbonsai.study.runner import Event, run
from torchbonsai.study.stage import Stage
from torchbonsai.study.stages.images import found
from torchbonsai.study.stages.measure import Evaluate
from torchbonsai.study.stages.start import NewWeights
from torchbonsai.study.stages.train import Train
from torchbonsai.study.statistics import paired
from torchbonsai.study.store import Store, versions
from torchbonsai.training import TrainConfig

ARMS = {"float32": {"precision": "float32"}, "bf16": {"precision": "bf16", "channels_last": True}}
RESULTS = Path(__file__).parent.parent / "results"


def main() -> None:
    """Train both arms for every seed, compare, write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit-train", type=int, default=10000)
    parser.add_argument("--epochs", type=float, default=10.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work", type=Path, default=Path("bonsai-out/bf16_against_float32"))
    parser.add_argument("--out", type=Path, default=RESULTS / "bf16_against_float32.json")
    options = parser.parse_args()
    if not is_here(options.device):
        return
    trained, tested, places = listed(options)
    finished = run_all([*trained.values(), *tested.values()], places, options)
    record = compared(trained, tested, finished, options)
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(page(record))
    print(page(record))


Key = tuple[str, int]


def listed(options: argparse.Namespace) -> tuple[dict[Key, Stage], dict[Key, Stage], dict[str, str]]:
    """(arm, seed) -> its training, and its test; and where the images lie."""
    data, splits, places = found(DataConfig("cifar10", options.data_dir, options.limit_train))
    model = ModelConfig("resnet20", splits.in_shape, splits.classes)
    trained, tested = {}, {}
    for seed in range(options.seeds):
        begun = Stage(NewWeights(model, data, seed), label=f"new weights, seed {seed}")
        for arm, how in ARMS.items():
            numerics = Numerics(device=options.device, **how)
            training = TrainConfig(options.epochs, augment=("crop", "flip"), seed=seed, **how)
            label = f"{arm}, seed {seed}"
            trained[arm, seed] = Stage(Train(data, training, numerics), {"model": begun}, f"training {label}")
            tested[arm, seed] = Stage(Evaluate(data, numerics), {"model": trained[arm, seed]}, f"testing {label}")
    return trained, tested, places


def run_all(todo: list[Stage], places: dict[str, str], options: argparse.Namespace) -> dict[str, Any]:
    """All stages to their end; what is in the store is found."""

    def listener(event: Event) -> None:
        if event.what in ("done", "found") and event.stage.kind.name == "evaluate":
            print(f"{event.stage.label}: {event.output.result['test_accuracy']:.2%}", flush=True)

    store = Store(options.work / "stages")
    count = at_once(options.device)
    executor = Workers(store, count) if count > 1 else InProcess(store)
    try:
        return run(todo, store, executor, listener=listener, places=places)
    finally:
        executor.close()


def at_once(device: str) -> int:
    """How many trainings run beside one another; on a GPU one, since the seconds are compared."""
    return max(default_workers(), 1) if device == "cpu" else 1


def compared(
    trained: dict[Key, Stage], tested: dict[Key, Stage], finished: dict[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    """Accuracies, their paired difference, seconds."""
    accuracy = {
        arm: {s: finished[tested[a, s].spec].result["test_accuracy"] for a, s in tested if a == arm} for arm in ARMS
    }
    seconds = {
        arm: [finished[trained[a, s].spec].timing["training_seconds"] for a, s in trained if a == arm] for arm in ARMS
    }
    difference = paired(accuracy["bf16"], accuracy["float32"])
    return {
        "command": command(__file__),
        "commit": commit(),
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        "hardware": f"{device_name(torch.device(options.device))}, {os.cpu_count()} cores",
        "versions": versions(),
        "processes": at_once(options.device),
        "size": {"train": options.limit_train, "epochs": options.epochs, "seeds": options.seeds},
        "test_accuracy": accuracy,
        "difference": vars(difference),
        "training_seconds": seconds,
        "speed": round(statistics.median(seconds["float32"]) / statistics.median(seconds["bf16"]), 3),
    }


def page(record: dict[str, Any]) -> str:
    """The table, and the difference in a sentence."""
    size, d = record["size"], record["difference"]
    mean = {arm: statistics.mean(values.values()) for arm, values in record["test_accuracy"].items()}
    interval = "" if d["low"] is None else f" [{100 * d['low']:+.2f}, {100 * d['high']:+.2f}]"
    lines = [
        "# bf16 against float32",
        "",
        f"`{record['command']}`, {record['date']}. {record['hardware']}; torch {record['versions']['torch']}.",
        "",
        f"ResNet-20 on CIFAR-10, {size['train']} training images, {size['epochs']:g} epochs, crop and flip, seeds 0 to "
        f"{size['seeds'] - 1}; bf16 is channels_last, float32 contiguous; both eager, 1 thread; trainings at once: "
        f"{record['processes']}.",
        "",
        "| | test accuracy, mean | by seed | seconds of training, median |",
        "|---|---|---|---|",
    ]
    for arm, values in record["test_accuracy"].items():
        listed = ", ".join(f"{v:.2%}" for v in values.values())
        lines.append(
            f"| {arm} | {mean[arm]:.2%} | {listed} | {statistics.median(record['training_seconds'][arm]):.0f} |"
        )
    told = f"bf16 minus float32: {100 * d['mean']:+.2f} points{interval} ({d['kind']}); "
    told += f"{record['speed']:.2f} times as fast."
    return "\n".join([*lines, "", told, ""])


if __name__ == "__main__":
    main()
