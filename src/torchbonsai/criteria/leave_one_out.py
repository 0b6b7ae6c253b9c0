"""What the performance loses when a channel, and nothing else, is removed: measured, not estimated.

Paper: Molchanov, Tyree, Karras, Aila, Kautz: Pruning Convolutional Neural Networks for Resource Efficient Inference
(ICLR 2017, arXiv 1611.06440), section 2.2, the oracle (its loss variant, with the sign kept).
Scores: the performance of the network whole minus that without the channel. Needs: evaluations.
Formula: score[j] = y(1) − y(1 − e_j), y(m) = −loss over the batches with the channels of mask m on; a masked channel is
multiplied by zero where a contraction reads it, as if removed. It is what linear filter ensembles estimate in the limit
of masks that leave all but one channel on, without their noise.
Deviations: the performance may be the accuracy, or the agreement with the network whole, of which the paper says
nothing. Channels by group, so that what is tied together goes together.
Known problems: n + 1 evaluations a group. It says nothing of channels that are removed together: two that can stand in
for each other both score low. With performance="loss" channels whose removal mends errors of the images at hand score
below zero, and removing many of them overshoots; "agreement" is never below zero, but for the rounding of
precision="bf16".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from torchbonsai.cost.evaluate import eval_mode
from torchbonsai.criteria.base import Scores, ScoringContext
from torchbonsai.criteria.masked_loss import MaskedLoss
from torchbonsai.criteria.options import one_of
from torchbonsai.criteria.performance import PERFORMANCES, Performance, lost
from torchbonsai.graph.forward import undisturbed


@dataclass(frozen=True)
class LeaveOneOut:
    """performance, precision: as of `LinearFilterEnsembles`.

    >>> import torch, torchbonsai as tb
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    >>> batches, criterion = [torch.randn(16, 8)], tb.criteria.LeaveOneOut(performance="agreement")
    >>> result = tb.prune(net, batches[0], budget=tb.Budget(channels=0.5), criterion=criterion, batches=batches)
    >>> bool((result.scores["0"] >= 0).all())
    True
    """

    performance: Performance = "loss"
    precision: Literal["model", "bf16"] = "model"
    normalise: Literal["mean"] | None = None
    needs: ClassVar[frozenset[str]] = frozenset({"evaluations"})
    claims: ClassVar[frozenset[str]] = frozenset({"equivariant"})

    def __post_init__(self) -> None:
        one_of("performance", self.performance, PERFORMANCES)
        one_of("precision", self.precision, ("model", "bf16"))

    def score(self, context: ScoringContext) -> Scores:
        """{group: (n atoms,) float64}, in units of the performance.

        Raises DataError without batches; PruningError where a masked loss is not finite. A note says where masks take
        full forwards, and why.
        """
        context.details["forward_passes"] = int(self.performance == "agreement")  # the network whole
        found = dict(self._by_group(context))
        return {group.name: found[group.name] for group in context.graph.groups}

    def _by_group(self, context: ScoringContext) -> Iterator[tuple[str, Tensor]]:
        """Each group's name and scores, in the order in which the forward reads the groups."""
        if not context.graph.groups:
            return
        with eval_mode(context.model), undisturbed(context.model):
            masked = MaskedLoss(context, lost(self.performance, context), half=self.precision == "bf16")
            for number, atoms in masked.groups():
                n = len(atoms)
                masks = np.concatenate([np.ones((1, n), dtype=bool), ~np.eye(n, dtype=bool)])
                losses = masked.losses(atoms, masks)
                context.details["forward_passes"] += n + 1
                yield context.graph.groups[number].name, torch.from_numpy(losses[1:] - losses[0])
