"""How far a filter is from the others of its layer.

Paper: He, Liu, Wang, Hu, Yang: Filter Pruning via Geometric Median for Deep Neural Networks Acceleration (CVPR 2019,
arXiv 1811.00250), known as FPGM.
Scores: how little the other filters could stand in for a channel's. Needs: weights.
Formula: with F[c] all producing weights of channel c, laid end to end, score[c] = Σ over j of |F[c] − F[j]|₂; the
filters nearest the geometric median score lowest.
Deviations: the filters of all layers that write to one residual stream together; a global ranking divides by the
group's mean (the paper fixes a rate a layer, and may mix in a norm). Biases, norms and consumers are left out.
Known problems: distances grow with the norms, so it hardly differs from Magnitude where norms differ much; a norm after
the layer rescales its filters. Memory for n² distances in a group of n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from torchbonsai.criteria.base import Normalise, Scores, ScoringContext
from torchbonsai.criteria.reduce import rows
from torchbonsai.graph.channel_graph import ChannelGroup


@dataclass(frozen=True)
class GeometricMedian:
    """The sum of Euclidean distances from a channel's filters to all others of its group."""

    normalise: Normalise = "mean"
    needs: ClassVar[frozenset[str]] = frozenset({"weights"})
    claims: ClassVar[frozenset[str]] = frozenset({"equivariant"})

    def score(self, context: ScoringContext) -> Scores:
        """{group: (n atoms,) float64}, ≥ 0."""
        return {g.name: _distances(context, g).sum(1) for g in context.graph.groups}


def _distances(context: ScoringContext, group: ChannelGroup) -> Tensor:
    """(n, n) float64: between the filters of every two channels of a group."""
    squares = torch.zeros(group.size, group.size, dtype=torch.float64)
    for filters in rows(context.graph, context.tensor, group, "produces"):
        squares += torch.cdist(filters, filters).square().cpu()
    return squares.sqrt()
