"""The zoo: half the channels of every network of zoo_models.json at random, each in a process of its own.

    python benchmarks/zoo.py [--arms torchbonsai torch-pruning] [--only REGEX] [--limit N] [--timeout 90]

One JSON line per network and arm goes to results/zoo.jsonl; what is there already is skipped, so a run goes on where
it stopped (--again runs it anew). results/zoo.md is the summary, made from the records alone (--summary: only that).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from _zoo_summary import write_summary

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
_IDLE = 20
"""So many times the processor's seconds may pass on the wall, on a machine that others use."""


def main() -> None:
    """Run what is missing, then write the summary."""
    options = arguments()
    entries = json.loads((HERE / "zoo_models.json").read_text())
    records = read(options.out)
    by_size = sorted(entries, key=lambda e: (e["name"].partition(":")[0] == "timm", e["params"]))
    todo = [(e, arm) for arm in options.arms for e in by_size if re.search(options.only, e["name"])]
    if not options.again:
        todo = [(e, arm) for e, arm in todo if (e["name"], arm) not in records]
    for entry, arm in [] if options.summary else todo[: options.limit]:
        record = run_one(entry, arm, options.timeout)
        records[(entry["name"], arm)] = record
        with options.out.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(line(record), flush=True)
    write_summary(
        entries, records, options.out.with_suffix(".md"), " ".join(["python benchmarks/zoo.py", *sys.argv[1:]])
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", default=["torchbonsai"], choices=["torchbonsai", "torch-pruning"])
    parser.add_argument("--only", default="", help="regular expression that the name must contain")
    parser.add_argument("--limit", type=int, default=None, help="at most so many networks")
    parser.add_argument(
        "--timeout", type=float, default=90.0, help="processor seconds for one network, building included"
    )
    parser.add_argument("--again", action="store_true", help="run what has a record, too; the newest record counts")
    parser.add_argument("--summary", action="store_true", help="run nothing, write the summary")
    parser.add_argument("--out", type=Path, default=RESULTS / "zoo.jsonl")
    options = parser.parse_args()
    options.out.parent.mkdir(exist_ok=True)
    return options


def read(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """(name, arm) -> its newest record."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {(r["name"], r["arm"]): r for r in map(json.loads, lines)}


def run_one(entry: dict[str, Any], arm: str, timeout: float) -> dict[str, Any]:
    """The record of one network; a timeout or a death of the process is one, too."""
    command = [sys.executable, str(HERE / "_zoo_worker.py"), json.dumps(entry), arm, str(timeout)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    start = time.perf_counter()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_IDLE * timeout, env=environment, check=False
        )
        if done.returncode == -signal.SIGXCPU:
            raise subprocess.TimeoutExpired(command, timeout)
        record = json.loads(done.stdout.strip().rpartition("\n")[2])
    except subprocess.TimeoutExpired:
        error = f"over {timeout:.0f} processor seconds, building, planning and verification together"
        record = {"name": entry["name"], "arm": arm, "status": "timeout", "error": error}
    except json.JSONDecodeError:
        said = (done.stderr.strip() or "no output").splitlines()[-1][:300]
        record = {"name": entry["name"], "arm": arm, "status": "died", "error": f"exit {done.returncode}: {said}"}
    return record | {"total_s": round(time.perf_counter() - start, 1), "commit": commit()}


def commit() -> str:
    """The commit that the engine was at; "+" where the tree had changes on top."""
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty=+"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def line(record: dict[str, Any]) -> str:
    """One record on one line of the terminal."""
    gone = ""
    if "params_after" in record:
        share = 1 - record["params_after"] / record["params_before"]
        gone = f"{share:4.0%} gone, plan {record.get('timing', {}).get('plan_s', 0):.1f} s"
    error = record.get("rel_error")
    said = record.get("error", "").splitlines()[:1]
    return (
        f"{record['arm']:13} {record['name']:45} {record['status']:10} {gone} "
        + (f"err {error:.0e} " if error is not None else "")
        + " ".join(said)[:160]
    )


if __name__ == "__main__":
    main()
