"""Making the scores of different groups comparable, for one ranking of them all.

Every normaliser keeps the order within a group: it only says how the groups stand to each other.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from torchbonsai.core.errors import PruningError, message
from torchbonsai.graph.channel_graph import ChannelGraph

Floats = npt.NDArray[np.float64]


def by_mean(scores: Floats) -> Floats:
    """Divided by the mean of their absolute values: what a channel is against an average one of its group."""
    return scores / (float(np.abs(scores).mean()) or 1.0)


def by_sum(scores: Floats) -> Floats:
    """Divided by the sum of their absolute values: a channel's share of its group; wide groups lose more."""
    return scores / (float(np.abs(scores).sum()) or 1.0)


def by_size(scores: Floats) -> Floats:
    """Divided by how many channels the group has, whatever their scores are; wide groups lose more."""
    return scores / scores.size


def lamp(scores: Floats) -> Floats:
    """s² over the sum of the squares of all that are at least as large: the best of every group gets one.

    Lee, Park, Mo, Ahn, Shin: Layer-adaptive Sparsity for the Magnitude-based Pruning (ICLR 2021, arXiv 2010.07611),
    for channels instead of weights; equal scores get the same. Raises PruningError for negative scores.
    """
    if scores.min() < 0:
        raise PruningError(
            message(
                "normalise='lamp' needs scores that are not negative",
                f"a score of {scores.min():.3g}",
                "a criterion whose scores have both signs",
                "normalise='mean' or None",
            )
        )
    squares = np.square(scores / (scores.max() or 1.0))
    order = np.argsort(squares, kind="stable")
    least = np.searchsorted(squares[order], squares)  # the first of those that are at least as large
    above = np.cumsum(squares[order][::-1])[::-1][least]
    return squares / np.where(above > 0, above, 1.0)


NORMALISERS: dict[str, Callable[[Floats], Floats]] = {"mean": by_mean, "sum": by_sum, "size": by_size, "lamp": lamp}


def normalised(graph: ChannelGraph, scores: Floats, normalise: str | None) -> Floats:
    """(n_atoms,) -> (n_atoms,), each group's scores by the normaliser of that name; None leaves them as they are."""
    if normalise is None:
        return scores
    change = NORMALISERS[normalise]
    parts = [change(scores[g.offset : g.offset + g.size]) for g in graph.groups]
    return np.concatenate(parts) if parts else scores
