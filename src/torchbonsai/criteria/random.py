"""Random scores: the control of every comparison.

Paper: none; Li et al. (2017), Mittal et al. (2018) and others use it as the baseline.
Scores: nothing. Needs: nothing but the graph.
Formula: score[c] ~ U[0, 1), independent, from a generator of its own, group after group.
Deviations: none. Known problems: with scope="global" widths are random too; for random channels at given widths use
Budget(widths=…).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from torchbonsai.criteria.base import Normalise, Scores, ScoringContext
from torchbonsai.criteria.options import whole


@dataclass(frozen=True)
class Random:
    """Uniform random scores. The same seed gives the same scores; global random state is neither read nor moved."""

    seed: int = 0
    normalise: Normalise = None
    needs: ClassVar[frozenset[str]] = frozenset()
    claims: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        whole("seed", self.seed, 0)

    def score(self, context: ScoringContext) -> Scores:
        """{group: (n atoms,) float64 in [0, 1)}."""
        generator = torch.Generator().manual_seed(self.seed)
        return {g.name: torch.rand(g.size, generator=generator, dtype=torch.float64) for g in context.graph.groups}
