"""`bonsai demo`: four verified cuts without training, then the comparison on the embedded data."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from torchbonsai.cli.compare import compared, show
from torchbonsai.core.units import human
from torchbonsai.cost.latency import measure_latency
from torchbonsai.graph.channel_graph import ChannelGraph, Frozen
from torchbonsai.models.build import ModelConfig, build
from torchbonsai.pruning.prune import PruneResult, prune, trace
from torchbonsai.selection.budget import Budget
from torchbonsai.study.config import CompareConfig

CUT = ("densenet40", "resnet56", "mobilenet_v2", "shufflenet_small")
IMAGE = (1, 3, 32, 32)
ROUNDS = 5


@dataclass(frozen=True)
class Arguments:
    """Four verified cuts, then a comparison of starting points and methods on embedded images; a few minutes."""

    out: str = "bonsai-out/demo"
    """Folder for records, report and the best networks."""
    workers: int | None = None
    """Processes. Default: 2 where there are two cores."""


def run(arguments: Arguments) -> int:
    """Cut, compare, show."""
    start = time.monotonic()
    print("Four networks cut to half their MACs, random weights, no training; each compared with its masked large one")
    print("on random images in eval mode and float64, weights as given and constant ones randomised.\n", flush=True)
    for name in CUT:
        print(cut_line(name), flush=True)
    print("\nThe comparison: every number below comes from trainings on this machine.\n", flush=True)
    study = compared(demo_config(arguments.out, arguments.workers), Console(highlight=False, markup=False))
    show(study)
    print(f"\n{time.monotonic() - start:.0f} s in all")
    return 0


def demo_config(out: str, workers: int | None) -> CompareConfig:
    """Three starts, three methods, 4x and 16x under equal epochs, 4x under equal compute, three seeds."""
    return CompareConfig(
        budgets=("4x", "16x"), fairness=("equal-epochs", "equal-compute:4x"), epochs=10, out=out, workers=workers
    )


def cut_line(name: str) -> str:
    """Cut a network of the zoo to half its MACs and tell, in a line, what came of it; more where things are frozen."""
    model = build(ModelConfig(name, in_shape=IMAGE[1:]), seed=0)
    image = torch.randn(IMAGE, generator=torch.Generator().manual_seed(0))
    result = prune(model, image, budget=Budget(macs=0.5))
    before, after, check = result.cost.before, result.cost.after, result.verification
    line = (
        f"{name:<17} params {human(before.params):>6} → {human(after.params):>6}   "
        f"MACs {human(before.macs):>6} → {human(after.macs):>6}   "
        f"error {check.max_rel_error:.0e} {'(equal)' if check.exact else f'({check.reason})'}   "
        f"{speed_up(model, result, image):.2f}x faster for {before.macs / after.macs:.2f}x fewer MACs"
    )
    return "\n".join([line, *(f"{'':<17} frozen: {told(f)}" for f in held(trace(model, image)))])


def held(graph: ChannelGraph) -> list[Frozen]:
    """What is frozen beside the model's own inputs and outputs."""
    return [f for f in graph.frozen if f.source is not None and f.source.file]


def told(frozen: Frozen) -> str:
    """A frozen entry: how many channels, of what, by which op at which line."""
    assert frozen.source is not None
    where = f"{Path(frozen.source.file).name}:{frozen.source.line}"
    return f"{frozen.size} channels of {frozen.name} by {frozen.source.op} at {where}: {frozen.source.code}"


def speed_up(model: nn.Module, result: PruneResult, image: torch.Tensor) -> float:
    """Latency before over after: both are timed in turns and the quickest of their rounds' medians are compared, so
    that what else the machine does in between says little."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for network, found in zip((model, result.model), times, strict=True):
            found.append(measure_latency(network, image, min_seconds=0.04).median_ms)
    return min(times[0]) / min(times[1])
