"""The norm of the weights that make a channel.

Paper: Li, Kadav, Durdanovic, Samet, Graf: Pruning Filters for Efficient ConvNets (ICLR 2017), with p = 1.
Scores: how large the filters of a channel are. Needs: weights.
Formula: score[c] = (Σ over producing weights W (out, in, …), Σ |W[c]|^p)^(1/p); the weights of all layers that write to
one residual stream together. Biases, norms, depthwise weights and consumers are left out.
Deviations: p = 2 by default; a global ranking divides by the group's mean (the paper fixes a rate a layer).
Known problems: a norm after the layer rescales its filters, so magnitudes of different layers, and with weight decay
of different channels, need not speak of what the network uses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torchbonsai.core.errors import ConfigError, message
from torchbonsai.criteria.base import Normalise, Scores, ScoringContext
from torchbonsai.criteria.reduce import norms


@dataclass(frozen=True)
class Magnitude:
    """p-norm of the weights that produce a channel. p: positive and finite, else a ConfigError."""

    p: float = 2
    normalise: Normalise = "mean"
    needs: ClassVar[frozenset[str]] = frozenset({"weights"})
    claims: ClassVar[frozenset[str]] = frozenset({"equivariant"})

    def __post_init__(self) -> None:
        if isinstance(self.p, bool) or not isinstance(self.p, int | float) or not 0 < self.p < math.inf:
            raise ConfigError(
                message("p must be a positive, finite number", repr(self.p), "a typing error", "p=1 or 2")
            )

    def score(self, context: ScoringContext) -> Scores:
        """{group: (n atoms,) float64}, ≥ 0."""
        return norms(context.graph, context.tensor, "produces", self.p)
