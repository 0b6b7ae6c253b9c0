"""The zoo's records as a page: counts, what is frozen by which op at which line, what failed, what was slow."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections import Counter
from pathlib import Path
from typing import Any

Record = dict[str, Any]
PRUNED_SHARE = 0.35
SLOW = 10.0
STATES = ("verified", "flagged", "frozen", "failed", "timeout", "not run")
PACKAGES = ("torch", "torchvision", "timm", "pytorchcv", "torch-pruning")


def removed(record: Record | None) -> float | None:
    """The share of parameters that went; None where nothing came out."""
    if record is None or "params_after" not in record:
        return None
    return 1 - record["params_after"] / record["params_before"]


def state(record: Record | None, peer: Record | None) -> str:
    """verified / flagged: pruned, running, and equal to the masked network / undefined by nature and said so.

    Pruned: at least 35 % of the parameters went, or as much as torch-pruning removes there where that is right.
    """
    if record is None:
        return "not run"
    if record["status"] not in ("verified", "flagged", "unverified"):
        return "timeout" if record["status"] == "timeout" else "failed"
    if not (record["runs_eval"] and record["runs_train"]):
        return "failed"
    share, other = removed(record) or 0.0, removed(peer)
    right = peer is not None and peer.get("status") == "verified"
    if share < PRUNED_SHARE and not (right and other is not None and share >= other - 1e-9):
        return "frozen"
    return "flagged" if record["status"] != "verified" else "verified"


def silent(record: Record | None) -> bool:
    """Said to be exact, and yet another network by the twin that knows no graph."""
    return record is not None and bool(record.get("exact")) and (record.get("twin") or 0.0) > 1e-6


def write_summary(
    entries: list[Record], records: dict[tuple[str, str], Record], runs: list[Record], path: Path
) -> None:
    """Write the page; runs: under which conditions the records were made."""
    rows = [(e, records.get((e["name"], "torchbonsai")), records.get((e["name"], "torch-pruning"))) for e in entries]
    parts = [
        _head(runs),
        _targets(rows),
        _counts(rows),
        _silent(rows),
        _list("Frozen", rows, "frozen"),
        _list("Failed", rows, "failed"),
    ]
    parts += [_list("Timeout", rows, "timeout"), _slow(rows), _peer(rows), _table(rows)]
    path.write_text("\n\n".join(p for p in parts if p) + "\n")


Row = tuple[Record, Record | None, Record | None]


def _head(runs: list[Record]) -> str:
    return "\n\n".join(
        (
            "# Zoo: half the channels of every network at random",
            "1 thread, one network at a time, each in a process of its own. Runs that the records come from:",
            "\n".join(f"- {_run(run)}" for run in runs) or "- none",
            "*verified*: at least 35 % of the parameters went (or as much as torch-pruning removes where that is "
            "right), the small network runs in eval and in train mode and equals the masked one in float64, eval "
            "mode, relative error < 1e-9, with the given weights and with constant ones randomised. Traced, planned "
            "and run at the listed input (224x224, or the network's own size); numbers are compared on its first "
            "96x96 pixels where the network runs on them, on all of it otherwise (`checked_at` in the record). "
            "*flagged*: the same, but a statistic over channels makes the masked network undefined, and the result "
            "says so. *frozen*: fewer parameters went.",
        )
    )


def _run(run: Record) -> str:
    packages = ", ".join(f"{k} {v}" for k, v in run["versions"].items())
    where = f"{run['processor']}, {run['cores']} cores"
    return f"{run['run']}: `{run['command']}`, commit {run['commit']}, {packages}; {where}"


def versions() -> dict[str, str]:
    """Of Python and of every package that has a part in the numbers."""
    return {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in PACKAGES}


def machine() -> str:
    """Versions and hardware, in one line."""
    packages = ", ".join(f"{k} {v}" for k, v in versions().items())
    return f"{packages}; {processor()}, {os.cpu_count()} cores"


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.partition(":")[2].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def _counts(rows: list[Row]) -> str:
    kinds = sorted({_kind(e) for e, _, _ in rows}, reverse=True)
    lines = ["| networks | " + " | ".join(STATES) + " | silent errors | sum |", "|---" * (len(STATES) + 3) + "|"]
    for kind in [*kinds, "all"]:
        mine = [row for row in rows if kind in ("all", _kind(row[0]))]
        count = Counter(state(r, p) for _, r, p in mine)
        wrong = sum(silent(r) for _, r, _ in mine)
        lines.append(f"| {kind} | " + " | ".join(str(count[s]) for s in STATES) + f" | {wrong} | {len(mine)} |")
    return "\n".join(lines)


def _targets(rows: list[Row]) -> str:
    """What was asked for, and what came out of the networks that were run."""
    run = [(e, r, p) for e, r, p in rows if r is not None]
    cnns = [state(r, p) for e, r, p in run if e["kind"] == "cnn"]
    pruned = sum(s in ("verified", "flagged") for s in cnns)
    frozen = sum(state(r, p) == "frozen" for _, r, p in run)
    wrong = sum(silent(r) for _, r, _ in run)
    slow = sum(r["timing"]["plan_cpu_s"] > SLOW for _, r, _ in run if r and "timing" in r)
    spent = sum((r or {}).get("cpu_s", 0.0) for _, r, _ in run) / 60
    lines = [
        f"{len(run)} of {len(rows)} networks were run, one a family; {spent:.0f} processor minutes.",
        "",
        "| target | asked | found |",
        "|---|---|---|",
        f"| CNN families pruned and verified, or flagged | all of {len(cnns)} | {pruned} |",
        f"| families frozen | at most 5 % | {frozen} of {len(run)} ({frozen / max(len(run), 1):.1%}) |",
        f"| silent errors | 0 | {wrong} |",
        f"| families over {SLOW:.0f} s to trace and plan | 0 | {slow} |",
    ]
    return "## Targets\n\n" + "\n".join(lines)


def _kind(entry: Record) -> str:
    return f"{entry['kind']}, {entry['task']}"


def _silent(rows: list[Row]) -> str:
    wrong = [f"- {e['name']}: exact by its own word, twin {r['twin']:.1e}" for e, r, _ in rows if r and silent(r)]
    return "## Silent errors\n\n" + ("\n".join(wrong) if wrong else "None.")


def _list(title: str, rows: list[Row], which: str) -> str:
    lines = []
    for e, r, p in rows:
        if r is None or state(r, p) != which:
            continue
        share = f", {removed(r):.0%} of the parameters went" if removed(r) is not None else ""
        lines.append(f"- **{e['name']}** ({e['kind']}){share}")
        said = r.get("error") or r.get("train_error") or r.get("eval_error")
        lines += [f"  - {said}"] if said else []
        lines += [f"  - {w}" for w in r.get("where", [])[-2:]]
        lines += [f"  - {f['channels']} channels: {f['why']}" for f in r.get("frozen", [])[:5]]
    return f"## {title}\n\n" + "\n".join(lines) if lines else ""


def _slow(rows: list[Row]) -> str:
    slow = [(r["timing"]["plan_cpu_s"], e["name"]) for e, r, _ in rows if r and "timing" in r]
    found = sorted((s for s in slow if s[0] > SLOW), reverse=True)
    middle = sorted(s for s, _ in slow)[len(slow) // 2] if slow else 0.0
    lines = [f"- {name}: {seconds:.1f} s" for seconds, name in found]
    head = f"## Trace, plan, proof and surgery (processor seconds; median {middle:.1f} s)\n\n"
    return head + (f"Over {SLOW:.0f} s:\n\n" + "\n".join(lines) if lines else f"None over {SLOW:.0f} s.")


def _peer(rows: list[Row]) -> str:
    run = [p for _, _, p in rows if p is not None]
    if not run:
        return ""
    count = Counter(p["status"] for p in run)
    said = ", ".join(f"{n} {status}" for status, n in count.most_common())
    return f"## torch-pruning, half of every layer, one shot, no hints\n\n{len(run)} networks: {said}."


def _table(rows: list[Row]) -> str:
    lines = ["## Every network", ""]
    lines += [
        "| network | state | parameters | gone | error | twin | groups | frozen channels | seconds | torch-pruning |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|---|---|"]
    for e, r, p in rows:
        other = f"{p['status']}" + (f" {removed(p):.0%}" if removed(p) is not None else "") if p else ""
        if r is None:
            lines.append(f"| {e['name']} | not run | | | | | | | | {other} |")
            continue
        gone = f"{removed(r):.0%}" if removed(r) is not None else ""
        errors = [f"{r[k]:.0e}" if r.get(k) is not None else "" for k in ("rel_error", "twin")]
        seconds = f"{r['timing']['plan_cpu_s']:.1f}" if "timing" in r else ""
        cells = [e["name"], state(r, p), f"{r.get('params_before', '')}", gone, *errors]
        cells += [f"{r.get('groups', '')}", f"{r.get('frozen_channels', '')}", seconds, other]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
