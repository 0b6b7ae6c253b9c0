"""What a channel's removal does to the loss, to first order.

Paper: Molchanov, Mallya, Tyree, Frosio, Kautz: Importance Estimation for Neural Network Pruning (CVPR 2019, arXiv
1906.10771): the first-order form on gates.
Scores: the squared derivative of the loss by a channel's gate. Needs: gradients.
Formula: L_b(g) the loss of batch b with every channel multiplied by g (n,) wherever a contraction reads it;
score[c] = Σ over b of (samples of b / samples) · (∂L_b/∂g[c])², at g = 1. All readers of a channel together.
Deviations: the gate lies where the channel is read, after its ReLU, and not behind the norm, which for networks of
ReLUs is the same; eval mode; no averaging over training steps.
Known problems: squares of a batch's mean, as in the paper, so the scores depend on the batch size (with batches of one
they are Fisher pruning's); zero gradients, hence no information, where the loss is zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from torchbonsai.criteria.base import Normalise, Scores, ScoringContext
from torchbonsai.criteria.sensitivity import Sensitivity


@dataclass(frozen=True)
class Taylor:
    """The mean over batches of (∂loss/∂gate)². Batch sizes matter; see the header."""

    normalise: Normalise = "mean"
    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})
    claims: ClassVar[frozenset[str]] = frozenset({"equivariant", "unread lowest"})

    def score(self, context: ScoringContext) -> Scores:
        """{group: (n atoms,) float64}, ≥ 0. Raises PruningError where the loss has no gradient."""
        found = Sensitivity(context)
        return found.scores("Taylor", torch.stack([share * g.square() for share, g in found.gradients()]).sum(0))
