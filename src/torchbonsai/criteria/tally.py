"""What is seen of each channel, averaged: over all batches at one place, then over the places."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from torchbonsai.core.errors import PruningError, message
from torchbonsai.criteria.base import ScoringContext
from torchbonsai.graph.channel_graph import FROZEN, Site


def site_means(context: ScoringContext, elementwise: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """(means, places): (n_atoms,) float64 each. means: of `elementwise(activation)`, 0 where places is 0.

    A mean is taken over all entries of a channel at one of `graph.sites`, ragged batches weighed by their length; the
    places of a channel count alike.
    """
    n_atoms = context.graph.n_atoms
    tallies = {site.op_index: _Tally(site, n_atoms) for site in context.graph.sites}
    context.watch(lambda site, output: tallies[site.op_index].add(elementwise(output)))
    means, places = torch.zeros(n_atoms, dtype=torch.float64), torch.zeros(n_atoms, dtype=torch.float64)
    for tally in tallies.values():
        seen = tally.entries > 0
        means[seen] += tally.sums[seen] / tally.entries[seen]
        places[seen] += 1
    return means / places.clamp(min=1), places


class _Tally:
    """sums, entries: (n_atoms,) float64, over everything that was seen at one site."""

    def __init__(self, site: Site, n_atoms: int) -> None:
        self.site = site
        self.atoms = torch.from_numpy(site.atoms)
        self.sums = torch.zeros(n_atoms, dtype=torch.float64)
        self.entries = torch.zeros(n_atoms, dtype=torch.float64)

    def add(self, values: Tensor) -> None:
        """Add one activation's; its channel axis has as many positions as the site has atoms."""
        rows = values.movedim(self.site.axis, 0).flatten(1)
        ours = self.atoms != FROZEN
        self.sums.index_add_(0, self.atoms[ours], rows.sum(1, dtype=torch.float64).cpu()[ours])
        self.entries.index_add_(0, self.atoms[ours], torch.full((int(ours.sum()),), float(rows.shape[1])).double())


def filled(context: ScoringContext, method: str, scores: Tensor, known: Tensor, lacking: str) -> Tensor:
    """`scores` (n_atoms,), with the mean of what is known of the group (else of the network) where `known` is False.

    The groups concerned are named in a note. Raises PruningError where nothing is known at all.
    """
    graph, scores = context.graph, scores.clone()
    if graph.groups and not bool(known.any()):
        raise PruningError(
            message(
                f"{method} needs channels with {lacking}",
                f"{len(graph.groups)} groups without",
                "a network of another kind than the method was made for",
                "use another criterion, such as Magnitude()",
            )
        )
    concerned = []
    for g in graph.groups:
        span = slice(g.offset, g.offset + g.size)
        if not bool(known[span].all()):
            concerned.append(repr(g.name))
            source = scores[span][known[span]] if bool(known[span].any()) else scores[known]
            scores[span][~known[span]] = source.mean()
    if concerned:
        context.note(f"{method}: channels without {lacking} score the mean of the others: {', '.join(concerned)}")
    return scores
