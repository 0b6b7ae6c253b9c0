"""What a process of a team does; `test_team` runs it in two processes, and by itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

import torchbonsai as tb
from torchbonsai.core.errors import BudgetError, PlanError
from torchbonsai.data import Splits, TestSplit, TrainSplit, ValSplit
from torchbonsai.training import TrainConfig, accuracy, fit
from torchbonsai.training.team import Team, check_widths, prune_together

CONFIG = TrainConfig(2, lr=0.05, batch_size=16, augment=("crop", "flip"))
"""53 images in batches of 14 and 13, which two processes share as 7 and 7, 7 and 6."""


def made() -> Splits:
    generator = torch.Generator().manual_seed(0)

    def part(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randint(0, 255, (n, 2, 4, 4), generator=generator, dtype=torch.uint8), torch.arange(n) % 3

    parts = TrainSplit(*part(53)), ValSplit(*part(23)), TestSplit(*part(5))
    return Splits(*parts, "noise", 3, (0.5, 0.5), (0.3, 0.3), "made here")


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3))


def work(fabric: Any, out: str) -> None:
    torch.set_num_threads(1)
    team, splits, model = Team(fabric), made(), network()
    example = torch.zeros(1, 2, 4, 4)
    small, plan = prune_together(team, model, example, budget=tb.Budget(channels=0.5), criterion=tb.criteria.Random(4))
    history = fit(small, splits.train, CONFIG, splits=splits, val=splits.val, team=team)
    raised = []
    if team.size > 1:
        for attempt in (
            lambda: check_widths(team, nn.Linear(3, 3 + team.rank)),
            lambda: prune_together(team, model, example, budget=tb.Budget(macs=1)),
        ):
            try:
                attempt()
            except (PlanError, BudgetError) as error:
                raised.append(type(error).__name__)
    told = {
        "kept": plan.kept["0.weight"][0].tolist(),
        "accuracy": accuracy(small, splits.val, splits, batch_size=5, team=team),
        "samples": history.samples,
        "loss": history.loss,
        "raised": raised,
        "gathered": team.gathered(torch.tensor([250 + team.rank], dtype=torch.uint8)).tolist(),
    }
    name = f"{team.size}-{team.rank}"
    Path(out, f"{name}.json").write_text(json.dumps(told))
    save_file(small.state_dict(), str(Path(out, f"{name}.safetensors")))


if __name__ == "__main__":
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()  # runs this script once more, as the second process
    work(fabric, sys.argv[1])
