"""Criteria on the four trained CIFAR-10 ResNets, before any fine-tuning.

    python benchmarks/criteria_resnets.py [--cifar10 FOLDER] [--depths 20 32 44 56] [--images 512] [--threads 2]

Linear filter ensembles, Taylor, APoZ, L1, FPGM and random at 10, 30 and 50 % of the MACs removed, uniform and global
scope. The networks have memorised every training image, so scores are taken on images of one fixed half of the test set
and accuracy on the other half (5,000 images); with "-seen" behind a method's name, on training images instead. What
needs images gets three draws of them, and random three seeds; what needs none (L1, FPGM) has one value and no interval.
By default only the inner channels of the blocks are cut (`--only`): cutting the residual streams without any training
afterwards leaves little to compare.
One cell of the record a (network, method, draw, scope, share); goes on where it stopped. Writes
results/criteria_resnets.json and .md.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import _trained
import torch
from _criteria_page import page
from _record import command, commit

import torchbonsai as tb
from torchbonsai.criteria.base import Scores, ScoringContext
from torchbonsai.training.accuracy import accuracy

RESULTS = Path(__file__).parent.parent / "results"
SCOPES = ("uniform", "global")
REMOVED = (0.1, 0.3, 0.5)
SEEN = "-seen"
"""Behind the name of a method that is scored on training images."""
Cell = tuple[int, str, int]


def main() -> None:
    """Every cell that is not in the record yet, then the page."""
    given = options()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore", tb.criteria.PruningWarning)
    record: dict[str, Any] = {
        "command": command(__file__),
        "commit": commit(),
        "settings": {k: v for k, v in vars(given).items() if k not in ("out", "cifar10", "depths", "methods", "join")},
        "dense": {},
        "cells": {},
    }
    if given.out.exists():
        before = json.loads(given.out.read_text())
        record = before if before["settings"] == record["settings"] else record
    for part in given.join:
        joined(record, json.loads(part.read_text()), part)
    _trained.write(given.out, record)
    splits = _trained.cifar10(given.cifar10)
    for depth, method, draw in cells(given):
        measure(record, (depth, method, draw), given, splits)
    given.out.with_suffix(".md").write_text(page(record))
    print(page(record))


def joined(record: dict[str, Any], part: dict[str, Any], where: Path) -> None:
    """The cells of another run with the same settings."""
    if part["settings"] != record["settings"]:
        raise SystemExit(f"{where} has other settings: {part['settings']}, not {record['settings']}")
    record.setdefault("parts", []).append(part["command"])
    record["dense"] |= part["dense"]
    record["cells"] |= part["cells"]


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, help="folder of the python batches; else restored from the shared data")
    parser.add_argument("--depths", type=int, nargs="+", default=[20, 32, 44, 56])
    parser.add_argument(
        "--methods",
        nargs="+",
        default=["random", "l1", "fpgm", "apoz", "taylor", "lfe"],
        help="also lfe-agreement, loo, loo-agreement (one channel left out at a time); NAME-seen: on training images",
    )
    parser.add_argument("--images", type=int, default=512, help="that scores are taken on")
    parser.add_argument("--told-on", type=int, default=5000, help="images of the other half")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--masks", type=float, default=2, help="a channel, for lfe")
    parser.add_argument("--precision", choices=["model", "bf16"], default="bf16", help="of lfe's masked forwards")
    parser.add_argument("--only", nargs="*", default=["layer*.conv1"], help="nothing: all groups")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--join", type=Path, nargs="*", default=[], help="records of other depths, measured beside it")
    parser.add_argument("--out", type=Path, default=RESULTS / "criteria_resnets.json")
    return parser.parse_args()


def criterion(method: str, draw: int, given: argparse.Namespace) -> Any:
    """A criterion; `draw` seeds those that draw themselves."""
    lfe = partial(
        tb.criteria.LinearFilterEnsembles, masks_per_channel=given.masks, precision=given.precision, seed=draw
    )
    loo = partial(tb.criteria.LeaveOneOut, precision=given.precision)
    made: dict[str, Callable[[], Any]] = {
        "random": lambda: tb.criteria.Random(seed=draw),
        "l1": lambda: tb.criteria.Magnitude(p=1),
        "fpgm": tb.criteria.GeometricMedian,
        "apoz": tb.criteria.APoZ,
        "taylor": tb.criteria.Taylor,
        "lfe": lfe,
        "lfe-agreement": partial(lfe, performance="agreement"),
        "loo": loo,
        "loo-agreement": partial(loo, performance="agreement"),
    }
    return made[method.removesuffix(SEEN)]()


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    """Small networks and cheap methods first."""
    for depth in given.depths:
        for method in given.methods:
            one = method in ("l1", "fpgm")
            yield from ((depth, method, draw) for draw in range(1 if one else given.draws))


@dataclass(frozen=True)
class Known:
    """Scores that were taken before."""

    scores: Scores
    normalise: Any
    needs: ClassVar[frozenset[str]] = frozenset()

    def score(self, context: ScoringContext) -> Scores:
        """As they are."""
        return self.scores


def measure(record: dict[str, Any], cell: Cell, given: argparse.Namespace, splits: Any) -> None:
    """All scopes and shares of a cell, each written when it is there."""
    depth, method, draw = cell
    names = {f"{depth} {method} {draw} {scope} {gone}": (scope, gone) for scope in SCOPES for gone in REMOVED}
    if all(name in record["cells"] for name in names):
        return
    model, other = _trained.resnet(depth), _trained.other_half(splits, given.told_on)
    images = _trained.seen if method.endswith(SEEN) else _trained.choosing
    batches = images(splits, given.images, given.batch, seed=draw)
    used: Any = criterion(method, draw, given)
    seconds = None
    for name, (scope, gone) in names.items():
        start = time.perf_counter()
        result = tb.prune(
            model,
            batches[0][0][:1],
            budget=tb.Budget(macs=1 - gone),
            criterion=used,
            scope=scope,
            only=given.only or None,
            batches=batches,
            verify=False,
        )
        seconds = time.perf_counter() - start if seconds is None else seconds
        used = Known(result.scores, used.normalise)
        record["cells"][name] = {
            "accuracy": accuracy(result.model, other, splits),
            "macs": result.cost.after.macs / result.cost.before.macs,
            "scoring_s": seconds,
            "notes": [note for note in result.notes if note not in result.graph.notes],
        }
        if str(depth) not in record["dense"]:
            record["dense"][str(depth)] = accuracy(model, other, splits)
        _trained.write(given.out, record)
        print(name, record["cells"][name], flush=True)


if __name__ == "__main__":
    main()
