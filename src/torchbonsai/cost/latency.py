"""Measured latency: eval mode, inference mode, percentiles, the device named."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.benchmark import Timer

from torchbonsai.cost.evaluate import call, device_of, eval_mode
from torchbonsai.cost.runtime import check_one


@dataclass(frozen=True)
class Latency:
    """Milliseconds a forward pass, over `n` timed blocks of `runs_per_block` passes each.

    device: the name of the chip; threads: of PyTorch's operators; runtime: what ran the network.
    """

    p10_ms: float
    median_ms: float
    p90_ms: float
    n: int
    runs_per_block: int
    device: str
    threads: int
    runtime: str = "eager"


def measure_latency(
    model: nn.Module, example_inputs: Any, *, min_seconds: float = 0.5, threads: int | None = None
) -> Latency:
    """Time `model` on `example_inputs` (a Tensor, a tuple, or a dict; on the model's device) for `min_seconds`.

    The timer runs untimed passes first, sizes its blocks so that its own overhead does not show, and on a GPU waits
    for the device. Training flags are as before afterwards. Raises ConfigError for a list of several examples.
    """
    check_one(example_inputs)
    threads = threads or torch.get_num_threads()
    timer = Timer("run()", globals={"run": lambda: call(model, example_inputs)}, num_threads=threads)
    with eval_mode(model), torch.inference_mode():
        measured = timer.blocked_autorange(min_run_time=min_seconds)
    milliseconds = np.asarray(measured.times) * 1e3
    p10, median, p90 = (float(v) for v in np.percentile(milliseconds, [10, 50, 90]))
    return Latency(p10, median, p90, len(milliseconds), measured.number_per_run, device_name(device_of(model)), threads)


def device_name(device: torch.device) -> str:
    """The chip's own name where the system tells it, else the architecture."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    return _cpu_name() or platform.processor() or platform.machine()


def _cpu_name() -> str:
    """The model name in /proc/cpuinfo; empty where there is none (macOS, Windows, many ARM kernels)."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
