"""Network trimming: how many channels of which layers go, those that are zero unusually often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from torchbonsai.core.errors import BudgetError, message
from torchbonsai.criteria.base import Scores, ScoringContext
from torchbonsai.selection.outliers import narrowed


@dataclass(frozen=True, eq=False)
class Given:
    """A criterion whose scores are known already; groups without any stay whole and count as zero."""

    scores: Scores
    needs: ClassVar[frozenset[str]] = frozenset({"weights"})
    normalise: ClassVar[None] = None

    def score(self, context: ScoringContext) -> Scores:
        """The scores of the groups that are asked for."""
        return {g.name: self.scores.get(g.name, torch.zeros(g.size)) for g in context.graph.groups}


def outlying(
    scores: Mapping[str, Tensor], deviations: float, layers: int | None, floors: Mapping[str, int], round_to: int = 1
) -> dict[str, int]:
    """{group: channels that stay} of layers that lose some, by Hu et al. 2016: the rule of `Budget(outliers=)`.

    scores: 1 - APoZ, (n,) a group, on the CPU. deviations: k of mean + k standard deviations. layers: of those that can
    lose a channel only the so many with the highest mean APoZ, None for all. floors: {group: channels that stay in any
    case, or all there are}.
    round_to: where some go, so many more do that a multiple of this stays, not below the floor's next multiple.

    >>> import torch
    >>> outlying({"conv": torch.tensor([0.9, 0.8, 0.9, 0.0])}, 1.0, None, {"conv": 1})
    {'conv': 3}
    """
    ranked = sorted(scores, key=lambda name: float(scores[name].mean()))  # the highest mean APoZ first
    widths = {}
    for name in ranked:
        values = scores[name].double().numpy()
        least = min(len(values), -(-floors[name] // round_to) * round_to)
        width = narrowed(values, deviations, least, round_to)
        if width < len(values):
            widths[name] = width
    return dict([*widths.items()][:layers])


def apoz_by_layer(scores: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """{group: the mean of its channels' APoZ, and percentiles: 10, 50 and 90}. scores: 1 - APoZ, (n,) a group.

    >>> import torch
    >>> apoz_by_layer({"conv": torch.tensor([0.75, 0.5, 0.25])})
    {'conv': {'mean': 0.5, 'p10': 0.3, 'p50': 0.5, 'p90': 0.7}}
    """
    found = {}
    for name, values in scores.items():
        apoz = 1 - values.detach().cpu().double().numpy()
        told = {"mean": apoz.mean(), **{f"p{q}": np.percentile(apoz, q) for q in (10, 50, 90)}}
        found[name] = {what: round(float(value), 6) for what, value in told.items()}
    return found


def nothing_outlying(deviations: float) -> BudgetError:
    """The error for layers whose channels are all alike."""
    return BudgetError(
        message(
            "trimming needs a channel whose APoZ is an outlier of its layer",
            f"none above mean + {deviations:g} standard deviations in layers that are trimmed and not at their floor",
            "layers of a few channels, layers that are never zero, or many rounds",
            "trim fewer rounds, with fewer deviations, a lower floor, or other layers",
        )
    )
