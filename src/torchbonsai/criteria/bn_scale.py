"""The scale that batch norm gives a channel.

Paper: Liu, Li, Shen, Huang, Yan, Zhang: Learning Efficient Convolutional Networks through Network Slimming (ICCV 2017,
arXiv 1708.06519).
Scores: |γ| of the batch norms that a channel passes. Needs: weights.
Formula: score[c] = mean over the batch norms with scale γ (c,) that hold channel c of |γ[c]|; one threshold for the
whole network, so normalise=None.
Deviations: a channel of a residual stream is held by several norms, and one of a dense block by a norm for each reader:
their mean, where the paper selects channels for each reader (a narrower input, the stream itself staying whole).
Known problems: it says little unless the network was trained with an L1 penalty on γ (`tb.penalties.BatchNormL1`); a
small γ before a large shift still makes a loud, constant channel. A channel without a batch norm scores the mean of the
others, which a note says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from torchbonsai.criteria.base import Normalise, Scores, ScoringContext
from torchbonsai.criteria.reduce import by_group
from torchbonsai.criteria.tally import filled
from torchbonsai.graph.affine import affine
from torchbonsai.graph.channel_graph import FROZEN


@dataclass(frozen=True)
class BatchNormScale:
    """The mean |scale| over the batch norms that hold a channel."""

    normalise: Normalise = None
    needs: ClassVar[frozenset[str]] = frozenset({"weights"})
    claims: ClassVar[frozenset[str]] = frozenset({"equivariant"})

    def score(self, context: ScoringContext) -> Scores:
        """{group: (n atoms,) float64}, ≥ 0. Raises PruningError where no channel has a batch norm with a scale."""
        graph = context.graph
        total, norms = torch.zeros(graph.n_atoms, dtype=torch.float64), torch.zeros(graph.n_atoms, dtype=torch.float64)
        for name in affine(graph).batch_scales:
            atoms = torch.from_numpy(graph.axes[name][0]) if name in graph.axes else torch.empty(0, dtype=torch.int64)
            ours = atoms != FROZEN
            if bool(ours.any()):
                total.index_add_(0, atoms[ours], context.tensor(name).abs().double().cpu()[ours])
                norms.index_add_(0, atoms[ours], torch.ones(int(ours.sum()), dtype=torch.float64))
        scores = total / norms.clamp(min=1)
        return by_group(graph, filled(context, "BatchNormScale", scores, norms > 0, "a batch norm that scales them"))
