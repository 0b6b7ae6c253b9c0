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
from typing import ClassVar, Literal

import torch
from torch import Tensor

from torchbonsai.core.errors import PruningError, message
from torchbonsai.criteria.base import Scores, ScoringContext
from torchbonsai.graph.channel_graph import FROZEN, ChannelGraph, Site


@dataclass(frozen=True)
class APoZ:
    """1 − the share of exact zeros among a channel's activations."""

    normalise: Literal["mean"] | None = "mean"
    needs: ClassVar[frozenset[str]] = frozenset({"activations"})
    claims: ClassVar[frozenset[str]] = frozenset({"equivariant"})

    def score(self, context: ScoringContext) -> Scores:
        """{group: (n atoms,) float64 in [0, 1]}.

        Raises PruningError where no group has a single zero; DataError without batches. Groups that are never zero,
        or that no pointwise op shows, score 1 and are named in `context.notes`.
        """
        graph = context.graph
        counts = [_Count(site, graph.n_atoms) for site in graph.sites]
        by_index = {count.site.op_index: count for count in counts}
        context.watch(lambda site, output: by_index[site.op_index].add(output))
        shares, places = torch.zeros(graph.n_atoms, dtype=torch.float64), torch.zeros(graph.n_atoms)
        for count in counts:
            seen = count.entries > 0
            shares[seen] += count.zeros[seen] / count.entries[seen].double()
            places[seen] += 1
        _report(context, graph, shares, places)
        scores = 1 - shares / places.clamp(min=1)
        return {g.name: scores[g.offset : g.offset + g.size] for g in graph.groups}


class _Count:
    """zeros, entries: (n_atoms,) int64, over everything that was seen at one site."""

    def __init__(self, site: Site, n_atoms: int) -> None:
        self.site = site
        self.atoms = torch.from_numpy(site.atoms)
        self.zeros = torch.zeros(n_atoms, dtype=torch.int64)
        self.entries = torch.zeros(n_atoms, dtype=torch.int64)

    def add(self, output: Tensor) -> None:
        """Count one activation; its channel axis has as many positions as the site has atoms."""
        zeros = (output == 0).movedim(self.site.axis, 0).flatten(1)
        ours = self.atoms != FROZEN
        self.zeros.index_add_(0, self.atoms[ours], zeros.sum(1).cpu()[ours])
        self.entries.index_add_(0, self.atoms[ours], torch.full_like(self.atoms[ours], zeros.shape[1]))


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
