"""How rarely a channel is zero.

Paper: Hu, Peng, Tai, Tang: Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient Deep Architectures
(arXiv 1607.03250): the Average Percentage of Zeros (APoZ) of a channel after its activation.
Scores: 1 − APoZ. Needs: activations.
Formula: at a place with activations A (b, c, …), APoZ[c] = zeros of A[:, c] / entries of A[:, c], over all batches; the
mean over the places where a channel of a coupled group is seen. A place is the output of the last pointwise op before
a pooling or a contraction.
Deviations: the paper's threshold (layer mean + one standard deviation) is the selection's matter, not the score's.
Known problems: only exact zeros count, so ReLU and its kin; with GELU or SiLU all scores are 1. A group that never has
a zero (a linear bottleneck, say) scores 1 throughout and is named in a note.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from torchbonsai.core.errors import PruningError, message
from torchbonsai.criteria.base import Normalise, Scores, ScoringContext
from torchbonsai.criteria.reduce import by_group
from torchbonsai.criteria.tally import site_means
from torchbonsai.graph.channel_graph import ChannelGraph


@dataclass(frozen=True)
class APoZ:
    """1 − the share of exact zeros among a channel's activations."""

    normalise: Normalise = "mean"
    needs: ClassVar[frozenset[str]] = frozenset({"activations"})
    claims: ClassVar[frozenset[str]] = frozenset({"equivariant"})

    def score(self, context: ScoringContext) -> Scores:
        """{group: (n atoms,) float64 in [0, 1]}.

        Raises PruningError where no group has a single zero; DataError without batches. Groups that are never zero,
        or that no pointwise op shows, score 1 and are named in `context.notes`.
        """
        shares, places = site_means(context, lambda activation: activation == 0)
        _report(context, context.graph, shares, places)
        return by_group(context.graph, 1 - shares)


def _report(context: ScoringContext, graph: ChannelGraph, shares: Tensor, places: Tensor) -> None:
    """Name the groups that the scores say nothing of; raises PruningError where that is every group."""
    if graph.groups and not bool(shares.any()):
        raise PruningError(
            message(
                "APoZ needs activations that are exactly zero somewhere",
                f"{len(graph.groups)} groups without a zero",
                "a network without ReLU (GELU, SiLU and LeakyReLU are hardly ever zero)",
                "use another criterion, such as Magnitude()",
            )
        )
    spans = {g.name: slice(g.offset, g.offset + g.size) for g in graph.groups}
    unseen = [repr(name) for name, span in spans.items() if not bool(places[span].all())]
    never = [repr(n) for n, span in spans.items() if bool(places[span].all()) and not bool(shares[span].any())]
    if never:
        context.note(f"APoZ: never zero, so all their channels score 1: {', '.join(never)}")
    if unseen:
        context.note(f"APoZ: no pointwise op shows them, so their channels score 1: {', '.join(unseen)}")
