"""How sensitive the loss of an untrained network is to a channel.

Paper: Lee, Ajanthan, Torr: SNIP: Single-shot Network Pruning based on Connection Sensitivity (ICLR 2019, arXiv
1810.02340), for single weights.
Scores: |∂L/∂g| of a channel's gate, as a share of the network's. Needs: gradients.
Formula: L(g) the mean loss over all batches with every channel multiplied by g (n,) wherever a contraction reads it;
score[c] = |∂L/∂g[c]| / Σ over all channels j of |∂L/∂g[j]|, at g = 1.
Deviations: a gate for a channel instead of a mask for a weight: the derivative is the sum of the signed W · ∂L/∂W over
the weights that read it. The paper takes one batch; here the gradients of all are averaged before the absolute value.
Known problems: made for initialisation: a trained network's gradients are small and cancel. In train mode (the
default, for the statistics of an untrained network's norms mean nothing) batches need two samples or more, and dropout
acts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from torchbonsai.criteria.base import Normalise, Scores, ScoringContext
from torchbonsai.criteria.sensitivity import Sensitivity


@dataclass(frozen=True)
class SNIP:
    """|∂loss/∂gate|, the gradient of all data. train: with the norms' batch statistics, else with the running ones."""

    train: bool = True
    normalise: Normalise = None
    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})
    claims: ClassVar[frozenset[str]] = frozenset({"equivariant", "unread lowest"})

    def score(self, context: ScoringContext) -> Scores:
        """{group: (n atoms,) float64 in [0, 1]}, together one. Raises PruningError where the loss has no gradient."""
        found = Sensitivity(context, train=self.train)
        size = torch.stack([share * g for share, g in found.gradients()]).sum(0).abs()
        return found.scores("SNIP", size / size.sum().clamp(min=torch.finfo(size.dtype).tiny))
