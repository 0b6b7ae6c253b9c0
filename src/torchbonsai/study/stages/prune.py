"""Stages that cut: by a criterion's scores, or random channels at the widths that a criterion chose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torchbonsai.pruning.prune import PruneResult
from torchbonsai.pruning.prune import prune as cut
from torchbonsai.selection.budget import Budget
from torchbonsai.study.fairness import scoring_macs
from torchbonsai.study.methods import Method, criterion_of, passes_of
from torchbonsai.study.numerics import Numerics
from torchbonsai.study.stage import Context, Inputs, Output, runs
from torchbonsai.study.stages.images import Images, example, opened, to_score_on
from torchbonsai.study.stages.network import Network, left, taken


@dataclass(frozen=True)
class Prune:
    """Cut the parent "model" to `share` of its MACs.

    score_images: of the training split, where the method needs data.
    """

    data: Images
    method: Method
    share: float
    seed: int
    numerics: Numerics
    scope: Literal["global", "uniform", "knapsack"] = "global"
    round_to: int = 1
    min_channels: int = 1
    score_images: int = 1000


@dataclass(frozen=True)
class RandomWidths:
    """The control: random channels of the parent "model", as many a group as the parent "like" kept."""

    data: Images
    seed: int
    numerics: Numerics


@runs(Prune, "prune", version=1)
def prune(config: Prune, inputs: Inputs, context: Context) -> Output:
    """Score on training images, select, prove, cut, verify."""
    network, module = taken(inputs["model"])
    splits = opened(config.data, context.places)
    criterion = criterion_of(config.method, config.seed)
    passes = passes_of(criterion)
    batches = to_score_on(splits, config.score_images) if passes else None
    module.to(config.numerics.device)
    result = cut(
        module,
        example(splits).to(config.numerics.device),
        budget=Budget(macs=config.share),
        criterion=criterion,
        scope=config.scope,
        round_to=config.round_to,
        min_channels=config.min_channels,
        batches=batches,
    )
    samples = sum(len(y) for _, y in batches or ())
    scoring = passes * scoring_macs(network.macs, samples)
    return _left(network, result, scoring + scoring_macs(network.macs, getattr(criterion, "example_passes", 0)))


@runs(RandomWidths, "random-widths", version=1)
def random_widths(config: RandomWidths, inputs: Inputs, context: Context) -> Output:
    """The same widths, channels drawn at random."""
    network, module = taken(inputs["model"])
    image = example(opened(config.data, context.places))
    like = Network.of(inputs["like"])
    widths = {name: n for name, n in like.widths.items() if n < like.dense_widths[name]}
    criterion = criterion_of(Method("random"), config.seed)
    device = config.numerics.device
    result = cut(module.to(device), image.to(device), budget=Budget(widths=widths), criterion=criterion)
    return _left(network, result, 0)


def _left(network: Network, result: PruneResult, scoring: int) -> Output:
    check = result.verification
    verification = {
        "exact": check.exact,
        "max_rel_error": check.max_rel_error,
        "dtype": check.dtype,
        "reason": check.reason,
    }
    small = Network.cut(network, result)
    return left(small, result.model.cpu(), verification=verification, scoring_macs=scoring)
