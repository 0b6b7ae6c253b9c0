"""What a channel contributes to the performance, by a linear model over random masks.

Paper: Sándor, Pável, Csató: Pruning CNN's with Linear Filter Ensembles (arXiv 2001.08142, ECAI 2020).
Scores: the effect of a channel on −loss over the batches, on average over masks of the other channels. Needs:
evaluations.
Formula: masks m (K, n) of a group's n channels (all other channels on), performance y (K,) = −loss under each mask;
y = b + Σ_j w_j m_j by least squares, w = (XᵀX + ridge·I)⁻¹ Xᵀy on centred m and y; score[j] = w[j]. A masked channel is
multiplied by zero where a contraction reads it, as if removed.
Deviations: only the abstract could be read, so all settings are ours: masks a group at a time (or over all groups at
once), the keep probability, the designs of masks, −loss rather than accuracy, the number of masks, stopping early.
Known problems: a linear model of a loss that is not: the effects hold for about the share of channels that masks leave
on. With performance="loss", on images that the network has not memorised, a channel may score below zero, for without
it errors are mended or a network that is too sure becomes less so; true of each, this overshoots when all of them go,
and the errors, which speak of masks alone, do not show it: with 512 images it cut the trained CIFAR-10 ResNets no
better than random channels did, before fine-tuning. Leave-one-out by agreement, which cannot gain so, was the best of
all in 9 of the 12 settings that it was run in (results/criteria_resnets.md). Scores are estimates: `result.details` has
their standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from torchbonsai.core.errors import ConfigError, PruningError, message
from torchbonsai.cost.evaluate import eval_mode
from torchbonsai.criteria.base import Scores, ScoringContext
from torchbonsai.criteria.linear_fit import Floats, LinearFit, fit_linear, identifiable
from torchbonsai.criteria.masked_loss import MaskedLoss
from torchbonsai.criteria.masks import DESIGNS, Design, Masks, draw_round
from torchbonsai.criteria.options import one_of, whole
from torchbonsai.criteria.performance import PERFORMANCES, Performance, lost
from torchbonsai.graph.channel_graph import ChannelGroup, Ints
from torchbonsai.graph.forward import undisturbed

_MOST_ROUNDS = 1000


@dataclass(frozen=True)
class LinearFilterEnsembles:
    """Effects of channels on the performance, fitted to masks.

    masks_per_channel: at least so many masks a group are evaluated, in whole rounds of the design, and more where the
    effects cannot be told apart yet (least squares needs n + 3). keep: the share of a group's channels that a mask
    leaves on. design: "independent", "antithetic", "balanced" or "hadamard" (`criteria.masks`). drawn: masks of one
    "layer" (group) at a time, or "global"ly, over all groups at once. performance: −"loss"; "accuracy" (of
    `model(inputs).argmax(1)` against batch[1]); or "agreement" (−KL from the classes, softmax(output, 1), that the
    network gives whole), which needs no labels and cannot score a channel low because without it errors are mended.
    ridge: 0 is least squares; more makes do with fewer masks than channels, and draws effects towards zero, which the
    standard errors do not include. cut: sampling of a group ends once the expected share of channels on the wrong side
    of the cut that keeps `cut` of them is at most `doubt` (below 1/2, which a coin reaches), and with ridge, too, not
    before least squares could tell them apart; `masks_per_channel` is then the most. cut="budget": what the budget
    keeps of the group at one share of all groups, which is the cut that scope="uniform" makes (of a group that it
    keeps whole, the cut of one channel); a ranking over groups cuts near it, elsewhere in each, and a latency's widths
    may be corrected afterwards. precision: "bf16" runs contractions in bfloat16, as under autocast. replay=False
    runs one full forward a mask.

    After scoring, `details["linear_fits"]` of the context (and of `tb.prune`'s result) is {group: LinearFit}:
    standard errors, R², how many masks; `details["masks"]` the masks in all, each worth one full forward.

    >>> import torch, torchbonsai as tb
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    >>> batches = [(torch.randn(16, 8), torch.randint(0, 2, (16,)))]
    >>> criterion = tb.criteria.LinearFilterEnsembles()
    >>> result = tb.prune(net, batches[0][0], budget=tb.Budget(channels=0.5), criterion=criterion, batches=batches)
    >>> result.details["linear_fits"]["0"].standard_errors.shape
    torch.Size([6])
    """

    masks_per_channel: float = 4
    keep: float = 0.9
    design: Design = "balanced"
    drawn: Literal["layer", "global"] = "layer"
    performance: Performance = "loss"
    ridge: float = 0.0
    cut: float | Literal["budget"] | None = None
    doubt: float = 0.05
    precision: Literal["model", "bf16"] = "model"
    replay: bool = True
    seed: int = 0
    normalise: Literal["mean"] | None = None
    needs: ClassVar[frozenset[str]] = frozenset({"evaluations"})
    claims: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        one_of("design", self.design, DESIGNS)
        one_of("drawn", self.drawn, ("layer", "global"))
        one_of("performance", self.performance, PERFORMANCES)
        one_of("precision", self.precision, ("model", "bf16"))
        whole("seed", self.seed, 0)
        _between("keep", self.keep, 0, 1)
        _between("masks_per_channel", self.masks_per_channel, 0, math.inf)
        _between("doubt", self.doubt, 0, 0.5)
        if self.cut not in (None, "budget"):
            _between("cut", self.cut, 0, 1)
        if self.ridge != 0:
            _between("ridge", self.ridge, 0, math.inf)
        if self.precision == "bf16" and not self.replay:
            raise _misfit("precision='bf16' needs the replay", "replay=False")
        draw_round(self.design, 1, self.keep, np.random.default_rng(0))  # a design may refuse `keep`

    def score(self, context: ScoringContext) -> Scores:
        """{group: (n atoms,) float64}, in units of the performance; may be negative.

        Raises DataError without batches; ConfigError where cut="budget" and no budget says how much stays;
        PruningError where a masked loss is not finite, or where the masks cannot tell the channels apart. A note says
        where masks take full forwards, and why.
        """
        fits = dict(self._fits(context))
        ordered = {g.name: fits[g.name] for g in context.graph.groups}
        context.details["linear_fits"] = ordered
        return {name: fit.effects for name, fit in ordered.items()}

    def _fits(self, context: ScoringContext) -> Iterator[tuple[str, LinearFit]]:
        """Each group's name and fit, in the order in which the forward reads the groups."""
        if not context.graph.groups:
            return
        with eval_mode(context.model), undisturbed(context.model):
            masked = MaskedLoss(
                context, lost(self.performance, context), replay=self.replay, half=self.precision == "bf16"
            )
            context.details["forward_passes"] = int(self.performance == "agreement")  # the network whole
            context.details["masks"] = 0
            if self.drawn == "global":
                everything = np.arange(context.graph.n_atoms)
                fit = self._fit(context, masked, everything, 0, self._share(context, context.graph.groups))
                yield from ((g.name, fit.part(g.offset, g.offset + g.size)) for g in context.graph.groups)
                return
            for number, atoms in masked.groups():
                group = context.graph.groups[number]
                yield group.name, self._fit(context, masked, atoms, number, self._share(context, [group]))

    def _share(self, context: ScoringContext, groups: Sequence[ChannelGroup]) -> float | None:
        """What the cut keeps of the channels of `groups`, in (0, 1]; None where sampling does not stop early."""
        if self.cut == "budget":
            # Of a group that one share keeps whole a ranking over groups may still take channels: its lowest first.
            left = sum(min(context.uniform_widths[g.name], max(1, g.size - 1)) for g in groups)
            return left / sum(g.size for g in groups)
        return self.cut

    def _fit(
        self, context: ScoringContext, masked: MaskedLoss, atoms: Ints, number: int, share: float | None
    ) -> LinearFit:
        """Draw, evaluate and fit, in rounds; until the cut that keeps `share` is settled, where there is one."""
        generator = np.random.default_rng((self.seed, number))
        most = self.masks_per_channel * len(atoms)
        masks = self.first_masks(len(atoms), generator)
        performance: Floats = -masked.losses(atoms, masks)
        fit, settled = fit_linear(masks, performance, self.ridge), None
        while share is not None:
            settled = fit.doubt(share) <= self.doubt
            if settled or len(masks) >= most:
                break
            more = draw_round(self.design, len(atoms), self.keep, generator)
            masks, performance = np.concatenate([masks, more]), np.append(performance, -masked.losses(atoms, more))
            fit = fit_linear(masks, performance, self.ridge)
        context.details["forward_passes"] += len(masks)
        context.details["masks"] += len(masks)
        return replace(fit, settled=settled)

    def first_masks(self, n: int, generator: np.random.Generator) -> Masks:
        """(K, n) rounds until the effects can be told apart, and until there are enough where nothing stops early.

        Raises PruningError where the effects cannot be told apart.
        """
        masks = draw_round(self.design, n, self.keep, generator)
        for _ in range(_MOST_ROUNDS):
            enough = self.cut is not None or len(masks) >= self.masks_per_channel * n
            if enough and len(masks) > 2 and (self.ridge > 0 or identifiable(masks)):
                return masks
            masks = np.concatenate([masks, draw_round(self.design, n, self.keep, generator)])
        raise PruningError(
            message(
                "masks must tell the effects of all channels apart",
                f"{len(masks)} masks of {n} channels that do not",
                f"keep={self.keep} leaves some channel on in all of them",
                "a lower keep=, design='balanced', or ridge=",
            )
        )


def _between(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low < value < high:
        raise ConfigError(
            message(f"{name} must be a number between {low} and {high}", repr(value), "a typing error", f"see {name}=")
        )


def _misfit(must: str, got: str) -> ConfigError:
    return ConfigError(message(must, got, "two options that exclude each other", "leave out one of them"))
