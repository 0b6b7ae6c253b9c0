"""A data set small enough for a hundred trainings a second, and networks with norm and dropout."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchbonsai.data import Splits, TestSplit, TrainSplit, ValSplit


@pytest.fixture
def splits() -> Splits:
    """53 training images of 2x4x4: the class is which of three rows is bright, plus noise."""
    generator = torch.Generator().manual_seed(0)

    def part(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.arange(n) % 3
        x = torch.randint(0, 120, (n, 2, 4, 4), generator=generator, dtype=torch.uint8)
        x[torch.arange(n), :, y] += 100
        return x, y

    return Splits(
        TrainSplit(*part(53)), ValSplit(*part(23)), TestSplit(*part(31)), "rows", 3, (0.3, 0.3), (0.2, 0.2), "made here"
    )


def make_net(dropout: float = 0.2) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(96, 3),
        )


@pytest.fixture
def net() -> nn.Module:
    return make_net()
