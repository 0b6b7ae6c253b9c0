"""Factories of a user's own, good and bad, for `package.module:factory`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchbonsai.criteria.base import Scores, ScoringContext


class Plain(nn.Module):
    """Two convolutions and a head, no `width`: the uniform control is cut and reset."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(channels, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.b = nn.Conv2d(12, 10, 3, padding=1)
        self.head = nn.Linear(10, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.b(torch.relu(self.norm(self.a(x))))).mean((2, 3)))


def plain(in_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return Plain(in_shape[0], classes)


def raising() -> nn.Module:
    raise RuntimeError("out of paper")


def untrainable(classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(196, classes)).requires_grad_(False)


def all_frozen(classes: int) -> nn.Module:
    """One layer from input to output: nothing can be removed."""
    return nn.Sequential(nn.Flatten(), nn.Linear(196, classes))


class Scaled(nn.Module):
    """A parameter of its own and no way to make it anew."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.body = Plain(channels, classes)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * self.scale


def scaled(in_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return Scaled(in_shape[0], classes)


class First:
    """Keeps the first channels."""

    needs = frozenset({"weights"})
    normalise = None

    def score(self, context: ScoringContext) -> Scores:
        return {g.name: -torch.arange(g.size, dtype=torch.float64) for g in context.graph.groups}


def not_a_criterion() -> object:
    return object()
