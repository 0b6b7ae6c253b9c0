"""The zoo: half the channels of every network of zoo_models.json at random, each in a process of its own.

    python benchmarks/zoo.py [--arms torchbonsai torch-pruning] [--only REGEX] [--kinds cnn] [--limit N] [--timeout 90]

One JSON line per network and arm goes to results/zoo.jsonl; what is there already is skipped, so a run goes on where
it stopped (--again runs it anew). results/zoo.md is the summary, made from the records alone (--summary: only that).
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
import _zoo_worker
from _record import command, commit
from _zoo_summary import processor, versions, write_summary

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
_IDLE = 20
"""So many times the processor's seconds may pass on the wall, on a machine that others use."""
_FORK = multiprocessing.get_context("fork")


def main() -> None:
    """Run what is missing, then write the summary."""
    options = arguments()
    entries = json.loads((HERE / "zoo_models.json").read_text())
    records, runs = read(options.out)
    by_size = sorted(entries, key=lambda e: (e["name"].partition(":")[0] == "timm", e["params"]))
    wanted = [e for e in by_size if re.search(options.only, e["name"]) and e["kind"] in options.kinds]
    todo = [(e, arm) for arm in options.arms for e in wanted]
    if not options.again:
        todo = [(e, arm) for e, arm in todo if (e["name"], arm) not in records]
    todo = [] if options.summary else todo[: options.limit]
    if todo:
        runs.append(conditions())
        append(options.out, runs[-1])
        _zoo_worker.prepare(options.arms, {e["name"].partition(":")[0] for e, _ in todo})
    for entry, arm in todo:
        limit = options.timeout if arm == "torchbonsai" else options.peer_timeout
        record = run_one(entry, arm, limit) | {"run": runs[-1]["run"]}
        records[(entry["name"], arm)] = record
        append(options.out, record)
        print(line(record), flush=True)
    write_summary(entries, records, runs, options.out.with_suffix(".md"))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", default=["torchbonsai"], choices=["torchbonsai", "torch-pruning"])
    parser.add_argument("--only", default="", help="regular expression that the name must contain")
    parser.add_argument("--kinds", nargs="+", default=["cnn", "attention"], choices=["cnn", "attention"])
    parser.add_argument("--limit", type=int, default=None, help="at most so many networks")
    seconds = "processor seconds for one network, building included"
    parser.add_argument("--timeout", type=float, default=90.0, help=seconds)
    parser.add_argument("--peer-timeout", type=float, default=45.0, help=f"{seconds}, for torch-pruning")
    parser.add_argument("--again", action="store_true", help="run what has a record, too; the newest record counts")
    parser.add_argument("--summary", action="store_true", help="run nothing, write the summary")
    parser.add_argument("--out", type=Path, default=RESULTS / "zoo.jsonl")
    options = parser.parse_args()
    options.out.parent.mkdir(exist_ok=True)
    return options


def read(path: Path) -> tuple[dict[tuple[str, str], dict[str, Any]], list[dict[str, Any]]]:
    """((name, arm) -> its newest record, the conditions of every run)."""
    lines = [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []
    return {(r["name"], r["arm"]): r for r in lines if "name" in r}, [r for r in lines if "command" in r]


def append(path: Path, record: dict[str, Any]) -> None:
    """One more line."""
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def conditions() -> dict[str, Any]:
    """When, how and on what a run was made; its records carry its name."""
    now = datetime.datetime.now(datetime.UTC)
    return {
        "run": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "command": command(__file__),
        "commit": commit(),
        "versions": versions(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": 1,
    }


def run_one(entry: dict[str, Any], arm: str, limit: float) -> dict[str, Any]:
    """The record of one network; a timeout or a death of the process is one, too."""
    start, known = time.perf_counter(), {"name": entry["name"], "arm": arm}
    receiver, sender = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_zoo_worker.main, args=(entry, arm, limit, sender))
    process.start()
    sender.close()
    heard = receiver.poll(_IDLE * limit)
    try:
        record = json.loads(receiver.recv_bytes()) if heard else {}
    except EOFError:  # it died, and closed the pipe
        record = {}
    process.join(1.0)
    if process.is_alive():
        process.kill()
        process.join()
    if not heard or process.exitcode == -signal.SIGXCPU:
        error = f"over {limit:.0f} processor seconds, building, planning and verification together"
        record = {"status": "timeout", "error": error, "cpu_s": limit}
    record = record or {"status": "died", "error": f"exit code {process.exitcode}"}
    return known | record | {"total_s": round(time.perf_counter() - start, 1)}


def line(record: dict[str, Any]) -> str:
    """One record on one line of the terminal."""
    gone = ""
    if "params_after" in record:
        share = 1 - record["params_after"] / record["params_before"]
        gone = f"{share:4.0%} gone, plan {record.get('timing', {}).get('plan_cpu_s', 0):.1f} s of {record['cpu_s']}"
    error = record.get("rel_error")
    said = record.get("error", "").splitlines()[:1]
    return (
        f"{record['arm']:13} {record['name']:45} {record['status']:10} {gone} "
        + (f"err {error:.0e} " if error is not None else "")
        + " ".join(said)[:160]
    )


if __name__ == "__main__":
    main()
