"""The outlier rule: in every group, the channels whose scores lie far below the others'.

Hu et al., Network Trimming (arXiv 1607.03250) cut the neurons of a layer whose APoZ is more than one standard deviation
above the layer's mean, as secondary sources give it; with scores of 1 − APoZ that is below mean − 1 · std. Where many
channels are never active, mean + std is above 1, which no APoZ exceeds: one implementation caps the threshold at 1, so
that those go. Here so do scores of zero where none is negative and the threshold is not above zero.
"""

from __future__ import annotations

import numpy as np

from torchbonsai.graph.channel_graph import ChannelGraph, Ints
from torchbonsai.selection.ladder import Floats

_ROUNDING = 1e-12


def without_outliers(graph: ChannelGraph, scores: Floats, deviations: float, least: Ints, round_to: Ints) -> Ints:
    """(n_groups,) how many channels each group keeps when the outliers go, see `staying`.

    scores: (n_atoms,) as the criterion gave them; std: of the whole group (divided by n). A width that is narrower than
    the group is rounded down to a multiple of `round_to` (n_groups,), but not below `least` (n_groups,).
    """
    widths = []
    for g, floor, multiple in zip(graph.groups, least.tolist(), round_to.tolist(), strict=True):
        widths.append(narrowed(scores[g.offset : g.offset + g.size], deviations, floor, multiple))
    return np.array(widths, dtype=np.int64)


def narrowed(scores: Floats, deviations: float, least: int, round_to: int) -> int:
    """The width that one group keeps: all of it, or what is `staying`, rounded down but not below `least`."""
    stay = staying(scores, deviations)
    return stay if stay == len(scores) else max(least, stay // round_to * round_to)


def staying(scores: Floats, deviations: float) -> int:
    """How many of one group's channels are no outliers: below mean − `deviations` · std, or zero, the least there is.

    scores: (n,). Equal but for rounding, none is an outlier; nor if all are zero.

    >>> staying(np.array([0.9, 0.8, 0.9, 0.0]), 1.0), staying(np.array([0.0, 0.0, 0.0, 0.9]), 1.0)
    (3, 1)
    """
    largest = np.abs(scores).max()
    rounding = _ROUNDING * largest
    limit = scores.mean() - deviations * scores.std()
    if limit <= rounding and scores.min() >= -rounding and largest > 0:
        return int((scores > rounding).sum())
    return int((scores >= limit - rounding).sum())
