"""Random networks grown from hazards, cut at random, and what became of every hazard."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchbonsai.core.errors import BudgetError
from torchbonsai.criteria.random import Random as RandomScores
from torchbonsai.pruning.prune import PruneResult, prune
from torchbonsai.selection.budget import Budget
from torchbonsai.testing.hazards import HAZARDS, SIZE
from torchbonsai.testing.hazards.base import conv
from torchbonsai.testing.surgery import reference_error

Fate = Literal["removed", "flagged", "beside a flagged one", "frozen", "left"]
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Spec:
    """A network as plain data. stages: (hazard, its seed, is it followed by a convolution of its own?)."""

    width: int
    stages: tuple[tuple[str, int, bool], ...]
    flat_head: bool
    seed: int

    def __str__(self) -> str:
        return f"{self.width}: " + " ".join(f"{name}({seed}){'+' * mixed}" for name, seed, mixed in self.stages)


class Grown(nn.Module):
    """Stem, stages, head; a tuple that a stage returns in training is a side output."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        channels = spec.width
        self.stem = nn.Sequential(conv(3, channels), nn.BatchNorm2d(channels), nn.ReLU())
        self.stages, self.mixers = nn.ModuleList(), nn.ModuleList()
        for name, seed, mixed in spec.stages:
            random = Random(seed)
            stage = HAZARDS[name](channels, random)
            channels = stage.out
            self.stages.append(stage)
            after = random.randint(2, 8)
            self.mixers.append(nn.Sequential(conv(channels, after), nn.ReLU()) if mixed else nn.Identity())
            channels = after if mixed else channels
        self.flat = spec.flat_head
        self.head = nn.Linear(channels * (SIZE * SIZE if spec.flat_head else 1), 3)

    def forward(self, x: Tensor) -> Any:
        """(n, 3, SIZE, SIZE), n even -> (n, 3), in training with a list of side outputs."""
        side: list[Tensor] = []
        x = self.stem(x)
        for stage, mixer in zip(self.stages, self.mixers, strict=True):
            x = stage(x)
            if isinstance(x, tuple):
                x, extra = x
                side.append(extra)
            x = mixer(x)
        out = self.head(F.relu(x).flatten(1) if self.flat else x.mean((2, 3)))
        return (out, *side) if side else out


def grow(spec: Spec) -> Grown:
    """The network, with weights and running statistics drawn from the spec's seed; eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        network = Grown(spec)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.3)
    return network.eval()


def pictures(spec: Spec) -> Tensor:
    """(2, 3, SIZE, SIZE)."""
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(spec.seed + 1))


def cut(spec: Spec, *, share: float, scope: Literal["global", "uniform"]) -> tuple[PruneResult, dict[int, Fate]]:
    """Remove a share of the channels at random, check the result twice, and say what became of each stage.

    Where groups of a single channel hold the budget up, half the share is tried, and so on. Raises VerificationError
    where the small network is not the masked one, AssertionError where it is not what the reference of another kind
    gives, BudgetError where nothing can go.
    """
    network, x = grow(spec), pictures(spec)
    try:
        result = prune(
            network, x, budget=Budget(channels=1 - share), scope=scope, criterion=RandomScores(seed=spec.seed)
        )
    except BudgetError as error:
        if "reachable floor" in str(error) and share > 0.05:
            return cut(spec, share=share / 2, scope=scope)
        raise
    if not result.plan.inexact:
        off = reference_error(network, result.model, result.plan, x)
        assert off < TOLERANCE, f"{spec}: silently wrong, relative error {off:.1e} against the poisoned network"
    return result, fates(network, result, x)


def fates(network: Grown, result: PruneResult, x: Tensor) -> dict[int, Fate]:
    """Stage number -> what became of it.

    removed: channels in it, before it or behind it are gone. flagged: so they are, and it is why the plan is inexact;
    "beside a flagged one": another stage is. frozen: the graph has no channel of it or behind it. left: by chance.
    """
    dense, small = (_widths(model, x) for model in (network, result.model))
    found: dict[int, Fate] = {}
    for k, (before, after) in enumerate(zip(dense, small, strict=True)):
        prefix = f"stages.{k}."
        inside = any(name.startswith(prefix) for name in result.plan.kept)
        if not inside and before == after:
            reader, axes = _reader(network, k), result.graph.axes
            removable = any(name.startswith(prefix) or (name.startswith(reader) and 1 in axes[name]) for name in axes)
            found[k] = "left" if removable else "frozen"
        elif not result.plan.inexact:
            found[k] = "removed"
        else:
            mine = any(f"{why.source.module}.".startswith(prefix) for why in result.plan.inexact if why.source)
            found[k] = "flagged" if mine else "beside a flagged one"
    return found


def _reader(network: Grown, k: int) -> str:
    """The prefix of the parameters that read what stage k returns."""
    if not isinstance(network.mixers[k], nn.Identity):
        return f"mixers.{k}."
    return f"stages.{k + 1}." if k + 1 < len(network.stages) else "head."


def _widths(model: nn.Module, x: Tensor) -> list[tuple[int, int]]:
    """Channels that enter and leave every stage."""
    widths: list[tuple[int, int]] = []
    hooks = [
        stage.register_forward_hook(lambda module, args, out: widths.append((args[0].shape[1], out.shape[1])))
        for stage in model.stages  # type: ignore[union-attr]
    ]
    with torch.no_grad():
        model.eval()(x)
    for hook in hooks:
        hook.remove()
    return widths
