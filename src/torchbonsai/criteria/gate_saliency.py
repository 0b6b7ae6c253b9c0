"""Gates learned on frozen weights, under pressure to close.

Paper: Wang et al.: Pruning from Scratch (AAAI 2020, arXiv 1909.12579).
Scores: the gate of a channel, in [0, 1], after learning. Needs: gates.
Formula: L(g) the loss of a batch with every channel multiplied by g (n,) wherever a contraction reads it, weights
frozen; minimise L(g) + strength · (mean |g| − sparsity)² from g = 1 with Adam, g clipped to [0, 1] after every step,
over all batches, `epochs` times; score[c] = g[c], all layers ranked together.
Deviations: the gate is where the channel is read, which for g ≥ 0 and ReLU is the paper's place, after the norm and
before the ReLU; behind a depthwise convolution (MobileNet v2) it is not. Batches are passed in a new order each epoch,
but are always the same batches. The last gates are taken; the code of the paper keeps those of the best validation
accuracy among the sparse ones. Its running statistics are updated, here they stay.
Known problems: Adam moves all gates alike as long as the loss has little to say, so few steps leave hardly any ranking;
in train mode (the default, as in the paper) batches need two samples or more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from torchbonsai.core.errors import ConfigError, PruningError, message
from torchbonsai.criteria.base import Normalise, Scores, ScoringContext
from torchbonsai.criteria.options import whole
from torchbonsai.criteria.sensitivity import Sensitivity

PASSES = 3
"""MACs of a step in forward passes: forward, and backward to the gates."""


@dataclass(frozen=True)
class GateSaliency:
    """Gates after learning them on frozen weights.

    sparsity: the mean that gates are pulled to. strength: of that pull. epochs: passes over all batches. train: with
    the norms' batch statistics. seed: of the order of batches. After scoring, `details["forward_passes"]` of the
    context (and of `tb.prune`'s result) is what one batch's worth of images cost, in forward passes.

    >>> import torch, torchbonsai as tb
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    >>> batches = [(torch.randn(16, 8), torch.randint(0, 2, (16,)))]
    >>> criterion = tb.criteria.GateSaliency(epochs=3)
    >>> result = tb.prune(net, batches[0][0], budget=tb.Budget(channels=0.5), criterion=criterion, batches=batches)
    >>> bool((result.scores["0"] < 1).all())
    True
    """

    sparsity: float = 0.2
    strength: float = 0.5
    epochs: int = 10
    lr: float = 0.01
    train: bool = True
    seed: int = 0
    normalise: Normalise = None
    needs: ClassVar[frozenset[str]] = frozenset({"gates"})
    claims: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        _need(0 <= self.sparsity <= 1, "sparsity must be within [0, 1]", self.sparsity)
        _need(0 <= self.strength < math.inf, "strength must be at least 0 and finite", self.strength)
        whole("epochs", self.epochs, 1)
        whole("seed", self.seed, 0)
        _need(0 < self.lr < math.inf, "lr must be above 0 and finite", self.lr)

    def score(self, context: ScoringContext) -> Scores:
        """{group: (n atoms,) float64 in [0, 1]}. Raises PruningError where the loss does not stay finite."""
        sensitivity = Sensitivity(context, train=self.train)
        data, gates = context.data(), sensitivity.gates()
        optimizer = torch.optim.Adam([gates], lr=self.lr)
        generator = torch.Generator().manual_seed(self.seed)
        for epoch in range(self.epochs):
            for step, number in enumerate(torch.randperm(len(data), generator=generator).tolist()):
                optimizer.zero_grad()
                sensitivity.run(
                    data[number],
                    lambda batch: self._objective(sensitivity.loss(batch, gates), gates).backward(),
                    draw=epoch * len(data) + step,  # dropout is to draw anew in every step
                )
                optimizer.step()
                with torch.no_grad():
                    gates.clamp_(0, 1)
        learned = gates.detach().double().cpu()
        context.details["forward_passes"] = PASSES * self.epochs
        return sensitivity.scores("GateSaliency", learned)

    def _objective(self, loss: Tensor, gates: Tensor) -> Tensor:
        """L(g) + strength · (mean |g| − sparsity)²."""
        value = loss + self.strength * (gates.abs().mean() - self.sparsity).square()
        if not bool(value.isfinite()):
            raise PruningError(
                message(
                    "the loss must stay finite while gates are learned",
                    f"{value.item()}",
                    "weights or inputs of a size that the network cannot bear",
                    "look at the loss of the batches without gates",
                )
            )
        return value


def _need(holds: bool, must: str, got: object) -> None:
    if not holds:
        raise ConfigError(message(must, repr(got), "a typing error", "see tb.criteria.GateSaliency"))
