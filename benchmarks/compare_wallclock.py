"""Where the wall time of a `bonsai compare` goes: what share is not training, scoring or measuring?

    python benchmarks/compare_wallclock.py FOLDER_OF_THE_OFFICIAL_BATCHES [--out FILE] [MORE FLAGS OF bonsai compare]

ResNet-20 on CIFAR-10, 5,000 training images, 2 epochs, two starts, two methods, one budget, both fairnesses, 1 seed:
the command itself, in a process of its own, from its start to its exit, into a fresh folder. Every worker has all of
the wall time to spend, so that waiting for one another counts as lost. Training is what the loop's epochs took,
measuring the stages that test accuracy and latency, of which the latter run alone and so take the time of all workers.
Stages that score and cut are shown by themselves, and told both ways: the strict figure counts all of them as lost,
since a stage does not say how long the scoring alone took.
Writes results/compare_wallclock.json and .md.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from _record import command, commit

FLAGS = [
    *("--model", "resnet20", "--data", "cifar10", "--limit-train", "5000", "--epochs", "2", "--seeds", "1"),
    *("--starts", "untrained", "trained", "--methods", "l1", "apoz", "--budgets", "2x", "--workers", "2"),
]
ALONE = ("latency", "fastest")
"""Kinds of stages beside which nothing may run, so that their seconds are those of all workers."""
MEASURING, CUTTING = ("evaluate", "latency", "fastest"), ("prune", "random-widths", "uniform")
TARGET = 0.05
RESULTS = Path(__file__).parent.parent / "results"


def main() -> None:
    """Run the comparison, add up its stages, write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir")
    parser.add_argument("--out", type=Path, default=RESULTS / "compare_wallclock.json")
    options, more = parser.parse_known_args()
    flags = [*FLAGS, *more]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "study"
        compare = [sys.executable, "-m", "torchbonsai", "compare", *flags, "--data-dir", options.data_dir]
        begin, start = time.time(), time.perf_counter()
        done = subprocess.run([*compare, "--out", str(out)], stdout=subprocess.DEVNULL)
        if done.returncode:
            sys.exit(done.returncode)  # it has said why
        wall = time.perf_counter() - start
        record = added_up(out, begin, wall, flags)
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(page(record))
    print(page(record))


def added_up(out: Path, begin: float, wall: float, flags: list[str]) -> dict[str, Any]:
    """Seconds by what they were spent on. begin: when the command was started, as files tell the time."""
    about = json.loads((out / "study.json").read_text())
    workers = about["config"]["workers"] or 1
    seconds: Counter[str] = Counter()
    count = 0
    spans: list[tuple[float, float, bool]] = []
    for path in out.glob("stages/*/record.json"):
        stage = json.loads(path.read_text())
        count += 1
        kind, timing = stage["kind"], stage["timing"]
        end = path.stat().st_mtime - begin
        spans.append((end - timing["seconds"], end, kind in ALONE))
        if kind == "train":
            seconds["training"] += timing["training_seconds"]
            seconds["around training: data, build, load, checkpoints"] += timing["seconds"] - timing["training_seconds"]
        elif kind in MEASURING:
            seconds["measuring"] += timing["seconds"] * (workers if kind in ALONE else 1)
        elif kind in CUTTING:
            seconds["score and cut"] += timing["seconds"]
        else:
            seconds[f"stage {kind}"] += timing["seconds"]
    lost = wall * workers - sum(seconds.values())
    seconds.update(idle(spans, wall, workers, lost))
    work = seconds["training"] + seconds["measuring"]
    return {
        "command": command(__file__),
        "commit": commit(),
        "measured": "bonsai compare " + " ".join(flags),
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        "hardware": f"{about['hardware']['device']}, {os.cpu_count()} cores",
        "versions": about["versions"],
        "wall_seconds": round(wall, 1),
        "workers": workers,
        "stages": count,
        "process_seconds": {k: round(v, 2) for k, v in seconds.most_common()},
        "share_lost_strict": round(1 - work / (wall * workers), 4),
        "share_lost": round(1 - (work + seconds["score and cut"]) / (wall * workers), 4),
        "target": TARGET,
    }


def idle(spans: list[tuple[float, float, bool]], wall: float, workers: int, lost: float) -> dict[str, float]:
    """What is lost, by when: before the first stage, after the last, and beside other stages.

    spans: (start, end, alone) of every stage in seconds since the command began; one that is alone takes all workers.
    """
    first, last = min(s for s, _, _ in spans), max(e for _, e, _ in spans)
    found = {"start, imports, data": workers * first, "summary and report": workers * (wall - last)}
    moments = sorted({t for s, e, _ in spans for t in (s, e)})
    one = several = 0.0
    for a, b in itertools.pairwise(moments):
        running = sum(workers if alone else 1 for s, e, alone in spans if s <= a and b <= e)
        one += (b - a) * max(0, workers - running) if running else 0.0
        several += (b - a) * workers if not running else 0.0
    found |= {
        "waiting beside another worker's stage, or between two of its own": one,
        "between stages: every worker waits": several,
    }
    return found | {"stages that overlap (must be 0)": lost - sum(found.values())}


def page(record: dict[str, Any]) -> str:
    """The table and the share."""
    total = record["wall_seconds"] * record["workers"]
    met = "met" if record["share_lost_strict"] < TARGET else "MISSED"
    lines = [
        "# Where the wall time of a comparison goes",
        "",
        f"`{record['command']}`, {record['date']}. {record['hardware']}; torch {record['versions']['torch']}; n = 1.",
        "",
        f"Measured: `{record['measured']} --data-dir DIR`.",
        "",
        f"{record['wall_seconds']:.0f} s of wall time for {record['workers']} worker(s), {record['stages']} stages. "
        "Measuring: testing accuracy, and latency, which runs alone and so takes the time of all workers.",
        "",
        "| spent on | process seconds | share |",
        "|---|---|---|",
        *(f"| {name} | {s:.1f} | {s / total:.1%} |" for name, s in record["process_seconds"].items()),
        "",
        f"Not training or measuring: {record['share_lost_strict']:.1%} (target below {TARGET:.0%}: {met}); with "
        f"scoring and cutting not counted as lost: {record['share_lost']:.1%}.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
