"""A comparison on real CIFAR-10, killed at random moments and gone on with: does it end with the same records?

    python benchmarks/killed.py FOLDER_OF_THE_OFFICIAL_BATCHES OUT [KILLS] [MORE FLAGS OF bonsai compare]

ResNet-20, 5,000 training images, 2 epochs, two starts, two methods, one budget. One run is left alone; another gets
SIGKILL (the command alone: its workers must notice by themselves) KILLS times, default 10, at moments drawn evenly
over what is left of it, and is then finished. Prints both times and whether the records agree, times, latencies and
host names aside; exits with 1 where they do not.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from torchbonsai.study.about import read_study

FLAGS = [
    *("--model", "resnet20", "--data", "cifar10", "--limit-train", "5000", "--epochs", "2", "--seeds", "1"),
    *("--starts", "untrained", "trained", "--methods", "l1", "apoz", "--budgets", "2x"),
]


def main(data: str, out: Path, kills: int, more: list[str]) -> int:
    """Run both, compare; returns the exit code."""
    out.mkdir(parents=True, exist_ok=True)
    flags = [*FLAGS, "--data-dir", data, *more]
    start = time.monotonic()
    finish(out / "unbroken", flags)
    print(f"unbroken: {time.monotonic() - start:.0f} s", flush=True)
    stages = done(out / "unbroken")
    chance, start = random.Random(0), time.monotonic()
    for moment in sorted(chance.uniform(0, stages) for _ in range(kills)):
        kill_at(out / "broken", flags, moment, chance.uniform(0, 5))
    finish(out / "broken", flags)
    print(f"broken: {time.monotonic() - start:.0f} s", flush=True)
    one, two = ([r.lasting() for r in read_study(out / name).records] for name in ("unbroken", "broken"))
    print(f"{len(one)} records {'agree' if one == two else 'DIFFER'} after {kills} kills")
    return int(one != two)


def begin(folder: Path, flags: list[str]) -> subprocess.Popen[bytes]:
    """Start the command; what it prints goes to a file beside its folder."""
    log = folder.with_suffix(".log").open("ab")
    command = [sys.executable, "-m", "torchbonsai", "compare", *flags, "--out", str(folder)]
    return subprocess.Popen(command, stdout=log, stderr=log)


def finish(folder: Path, flags: list[str]) -> None:
    """Run to the end; anything but success stops everything."""
    if begin(folder, flags).wait() != 0:
        raise SystemExit(f"the comparison failed: see {folder.with_suffix('.log')}")


def kill_at(folder: Path, flags: list[str], moment: float, seconds: float) -> None:
    """SIGKILL when so many stages are done and so many seconds have passed, but not before the command is at work."""
    process = begin(folder, flags)
    while done(folder) < int(moment) and process.poll() is None:
        time.sleep(0.1)
    time.sleep(5 + seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    print(f"killed at {done(folder)} stages", flush=True)


def done(folder: Path) -> int:
    """How many stages are finished."""
    return len(list(folder.glob("stages/*/record.json")))


if __name__ == "__main__":
    data, out, *rest = sys.argv[1:]
    number = int(rest.pop(0)) if rest and rest[0].isdigit() else 10
    sys.exit(main(data, Path(out), number, rest))
