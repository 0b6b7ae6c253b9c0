"""How loud a channel is.

Paper: Molchanov, Tyree, Karras, Aila, Kautz: Pruning Convolutional Neural Networks for Resource Efficient Inference
(ICLR 2017, arXiv 1611.06440), where mean activation is one of the criteria that Taylor is compared with.
Scores: the mean |activation|. Needs: activations.
Formula: at a place with activations A (b, c, …), score[c] = mean |A[:, c]| over all batches; the mean over the places
where a channel of a coupled group is seen. A place is the output of the last pointwise op before a pooling or a
contraction.
Deviations: the absolute value, which for ReLU is the paper's mean; the paper divides a layer's scores by their
Euclidean norm, here by their mean.
Known problems: a loud channel may be constant or never read. A channel that no pointwise op shows (a linear bottleneck)
scores the mean of the others, which a note says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from torchbonsai.criteria.base import Normalise, Scores, ScoringContext
from torchbonsai.criteria.reduce import by_group
from torchbonsai.criteria.tally import filled, site_means


@dataclass(frozen=True)
class ActivationMean:
    """The mean absolute activation of a channel, where it is about to be read."""

    normalise: Normalise = "mean"
    needs: ClassVar[frozenset[str]] = frozenset({"activations"})
    claims: ClassVar[frozenset[str]] = frozenset({"equivariant"})

    def score(self, context: ScoringContext) -> Scores:
        """{group: (n atoms,) float64}, ≥ 0. Raises PruningError where no activation can be seen."""
        means, places = site_means(context, torch.abs)
        return by_group(context.graph, filled(context, "ActivationMean", means, places > 0, "a pointwise op"))
