"""Does time follow MACs? vgg16_bn, resnet50 and mobilenet_v2 with 25, 50 and 75 % of their MACs removed.

    python benchmarks/realised_speedup.py [--models resnet50 …] [--batches 1 16] [--seconds 1]

Two ways of removing as many MACs: ours, tb.prune(budget=tb.Budget(macs=…, on=…)): widths that the device likes, layers
that are slow there narrower first; and torch-pruning, uniform and unrounded. Both and the dense network are timed in
turns, in one process, on the same inputs and threads, under eager PyTorch, torch.compile and ONNX Runtime, at batch 1
and 16. For torch.compile ours is the network cut for eager, whose kernels it calls for the layers. Runtimes must agree
on every network's outputs. The figure is speed-up ÷ ratio of MACs, each against the dense network.

A cell that is in the file already, of the same command's settings, is not measured again. Writes
results/realised_speedup.json and .md; where a cell of ours misses its target, with a profile of what bounds it.
"""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from _record import command, is_here
from _speedup_arms import disagreement, macs_of, ours, spent, torch_pruning
from _speedup_summary import machine, page, target
from _zoo_build import build
from torch import nn

from torchbonsai.core.config import write_atomic
from torchbonsai.cost.runtime import Target, runtime_named
from torchbonsai.cost.timing import Arm, in_turns, speed_ratio

MODELS = ("vgg16_bn", "resnet50", "mobilenet_v2")
KEEPS = (0.75, 0.5, 0.25)
RUNTIMES = ("eager", "compile", "onnxruntime")
RESULTS = Path(__file__).parent.parent / "results"
ARMS = ("dense", "ours", "torch-pruning")


@dataclass(frozen=True)
class Cell:
    """One comparison."""

    model: str
    keep: float
    batch: int
    runtime: str
    threads: int
    size: int
    seconds: float
    device: str


def main() -> None:
    """Measure what is not in the file yet, a cell at a time."""
    options = _options()
    if not is_here(options.device):
        return
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    logging.basicConfig(level=logging.WARNING)
    commands, done = _read(options.out)
    known = [cell for cell, _ in done]
    commands = [*commands, *({command(__file__)} - set(commands))]
    for model, batch in product(options.models, options.batches):
        wanted = [cell for cell in _cells(options, model, batch) if cell not in known]
        for cell, row in _measured(wanted):
            done.append((cell, row))
            print(_line(cell, row), flush=True)
            _write(options.out, commands, done)
    _write(options.out, commands, done)


def _measured(cells: list[Cell]) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Cells of one network and batch size, whose dense network is loaded once a runtime."""
    if not cells:
        return
    first = cells[0]
    model, x = build(
        {"name": f"torchvision:{first.model}", "kwargs": {}, "input": [first.batch, 3, first.size, first.size]}
    )
    with torch.inference_mode():
        model(x)
    dense: dict[str, Any] = {}
    for keep in sorted({cell.keep for cell in cells}, reverse=True):
        macs = macs_of(model, x)
        theirs, about_theirs = torch_pruning(model, x, int(keep * macs))
        mine: dict[str, Any] = {}
        for cell in (cell for cell in cells if cell.keep == keep):
            on = f"{cell.device}:{'eager' if cell.runtime == 'compile' else cell.runtime}"
            if on not in mine:
                mine[on] = ours(model, x, keep, on)
            small, about = mine[on]
            nets = dict(zip(ARMS, (model, small, theirs), strict=True))
            row = _row(cell, nets, x, dense)
            row["macs"] = {arm: macs_of(net, x) // cell.batch for arm, net in nets.items()}
            yield cell, row | {"ours": about, "torch-pruning": about_theirs, "machine": machine(cell.device)}


def _row(cell: Cell, nets: dict[str, nn.Module], x: torch.Tensor, dense: dict[str, Any]) -> dict[str, Any]:
    target_ = Target(cell.device, cell.runtime)
    runtime = runtime_named(cell.runtime)
    loaded: dict[str, Any] = {}
    off: dict[str, float] = {}
    for arm, net in nets.items():
        if arm != "dense" or cell.runtime not in dense:
            taken = runtime.load(net, x, target_)
            loaded[arm] = (taken, taken.bind(x, cell.threads))
            if arm == "dense":
                dense[cell.runtime] = loaded[arm]
        else:
            loaded[arm] = dense[cell.runtime]
        with torch.inference_mode():
            off[arm] = disagreement(net(x), loaded[arm][1]()[0].cpu())
    found = in_turns([Arm(loaded[arm][1], cell.threads) for arm in ARMS], seconds=cell.seconds)
    times = dict(zip(ARMS, found, strict=True))
    row: dict[str, Any] = {"disagreement": off, "times": {}}
    for arm, taken_ in times.items():
        p10, median, p90 = taken_.percentiles_ms(10, 50, 90)
        row["times"][arm] = {
            "p10_ms": p10, "median_ms": median, "p90_ms": p90, "n": len(taken_.seconds),
            "runs_per_block": taken_.runs_per_block, "speed_up": speed_ratio(times["dense"], taken_),
        }  # fmt: skip
    row["against_theirs"] = speed_ratio(times["torch-pruning"], times["ours"])
    ratio = macs_of(nets["dense"], x) / macs_of(nets["ours"], x)
    if row["times"]["ours"]["speed_up"] / ratio < target(cell.runtime, cell.keep):
        row["profile"] = {arm: spent(x, cell.runtime, *loaded[arm], cell.threads) for arm in ("dense", "ours")}
    return row


def _cells(options: argparse.Namespace, model: str, batch: int) -> list[Cell]:
    fixed = (options.threads, options.size, options.seconds, options.device)
    return [Cell(model, keep, batch, runtime, *fixed) for keep in options.keeps for runtime in options.runtimes]


def _line(cell: Cell, row: dict[str, Any]) -> str:
    ratios = {arm: row["macs"]["dense"] / row["macs"][arm] for arm in ARMS[1:]}
    told = [f"{arm} {row['times'][arm]['speed_up']:.2f}x of {ratios[arm]:.2f}x MACs" for arm in ARMS[1:]]
    return f"{cell.model:13} keep {cell.keep:4} batch {cell.batch:2} {cell.runtime:12} {'  '.join(told)}"


def _read(path: Path) -> tuple[list[str], list[tuple[Cell, dict[str, Any]]]]:
    """The commands that made the file, and its cells."""
    if not path.is_file():
        return [], []
    record = json.loads(path.read_text())
    return record["commands"], [(Cell(**entry["cell"]), entry["row"]) for entry in record["cells"]]


def _write(path: Path, commands: list[str], done: list[tuple[Cell, dict[str, Any]]]) -> None:
    cells = [{"cell": vars(cell), "row": row} for cell, row in done]
    write_atomic(path, json.dumps({"commands": commands, "cells": cells}, indent=1) + "\n")
    write_atomic(path.with_suffix(".md"), page(commands, cells))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--keeps", nargs="+", type=float, default=KEEPS)
    parser.add_argument("--batches", nargs="+", type=int, default=(1, 16))
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=RUNTIMES)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--seconds", type=float, default=1.0, help="of timed passes for each arm of a cell")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS / "realised_speedup.json")
    options = parser.parse_args()
    if options.device == "cuda":
        options.runtimes = [name for name in options.runtimes if name != "onnxruntime"]
    return options


if __name__ == "__main__":
    main()
