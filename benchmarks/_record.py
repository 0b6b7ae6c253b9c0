"""What every record says of how it was made, and what bounds a time that missed its target."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

import torchbonsai

SHOWN = 6


def command(script: str) -> str:
    """The command line; of folders only the name, since where they lie is this machine's matter.

    Settings of the C library's allocator stand before it: they decide what large outputs cost.
    """
    allocator = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("MALLOC_")]
    return " ".join([*allocator, f"python benchmarks/{Path(script).name}", *map(_told, sys.argv[1:])])


def _told(word: str) -> str:
    option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    return option + equals + (Path(value).name if os.path.isabs(value) else value)


def commit() -> str:
    """Of the torchbonsai that runs; "+" where there were changes on top."""
    git = ["git", "-C", str(Path(torchbonsai.__file__).parent), "describe", "--always", "--dirty=+"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def several(commands: list[str]) -> str:
    """Commands on a page."""
    return "; ".join(f"`{one}`" for one in commands)


def is_here(device: str) -> bool:
    """False, with a message, for CUDA where there is none."""
    if not device.startswith("cuda") or torch.cuda.is_available():
        return True
    print("skipped: no CUDA device here")
    return False


def by_op(run: Callable[[], object]) -> dict[str, float]:
    """Shares of the time of run() by op, the largest first: of the processor, or of the GPU where that works."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profile(activities=activities) as profiled:
        run()
    events = profiled.key_averages()
    device = Counter({event.key: event.self_device_time_total for event in events})
    times = device if sum(device.values()) > 0 else Counter({event.key: event.self_cpu_time_total for event in events})
    return shares(times)


def shares(times: Counter[str]) -> dict[str, float]:
    """The largest, as shares of all."""
    total = sum(times.values()) or 1.0
    return {name: round(time / total, 3) for name, time in times.most_common(SHOWN)}


def in_words(spent: dict[str, float]) -> str:
    """One line of them."""
    return ", ".join(f"{op} {share:.0%}" for op, share in spent.items())
