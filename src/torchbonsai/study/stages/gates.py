"""Stages of pruning from scratch: gates learned on frozen weights, and widths by the rank of the gates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from torchbonsai.core.config import added_later
from torchbonsai.criteria.base import Loss, ScoringContext
from torchbonsai.criteria.gate_saliency import GateSaliency
from torchbonsai.data.batches import Batch, normalise
from torchbonsai.data.splits import Splits
from torchbonsai.graph.channel_graph import ChannelGraph
from torchbonsai.pruning.controls import restrict
from torchbonsai.pruning.prune import prune, trace
from torchbonsai.selection.budget import Budget
from torchbonsai.study.fairness import scoring_macs
from torchbonsai.study.numerics import Numerics
from torchbonsai.study.stage import Context, Inputs, Output, runs
from torchbonsai.study.stages.floor import floor_of
from torchbonsai.study.stages.images import Images, example, opened, scored
from torchbonsai.study.stages.network import Network, left, taken
from torchbonsai.study.stages.outliers import Given

Order = Literal["rank", "shuffled", "drawn"]


@dataclass(frozen=True)
class LearnGates:
    """Gates of every channel of the parent "model", whose weights stay frozen; see `GateSaliency`.

    batch_size: images a step of the gates. images: of the training split, or of unseen images where there are some.
    only: modules whose channels have gates; none: all.
    """

    data: Images
    seed: int
    numerics: Numerics
    sparsity: float = 0.2
    strength: float = 0.5
    epochs: int = 10
    lr: float = 0.01
    batch_size: int = 128
    images: int = 50000
    only: tuple[str, ...] = added_later(())


@dataclass(frozen=True)
class ByGates:
    """The parent "model", expanded or not, cut by the parent "gates" to `share` of the MACs of the parent "dense".

    order: "rank": the largest gates of all layers stay. "shuffled", the control: the same gates, dealt out to the
    channels of all layers at random. "drawn", the control: every layer's width drawn at random, scaled to the budget.
    only: modules whose channels may go; none: all. min_channels: an int is a count, a float a share of the width in
    "dense", see `stages.floor`.
    """

    data: Images
    share: float
    seed: int
    numerics: Numerics
    order: Order = "rank"
    min_channels: int | float = 2
    round_to: int = 1
    only: tuple[str, ...] = added_later(())


@runs(LearnGates, "learn-gates", version=2)
def learn(config: LearnGates, inputs: Inputs, context: Context) -> Output:
    """The gates of each group as a tensor of its name, and what learning them cost."""
    network, module = taken(inputs["model"])
    splits = opened(config.data, context.places)
    device = config.numerics.device
    module.to(device)
    graph = restrict(trace(module, example(splits).to(device)), module, (), config.only or None)
    batches = to_learn_on(splits, config.images, config.batch_size)
    learner = GateSaliency(config.sparsity, config.strength, config.epochs, config.lr, seed=config.seed)
    found = ScoringContext(graph, module, batches, loss=loss_of(splits))
    gates = found.resolve(learner)
    samples = sum(len(y) for _, y in batches)
    values = torch.cat(list(gates.values())).double()
    result = {
        "gates": len(values),
        "closed": int((values == 0).sum()),
        "open": int((values == 1).sum()),
        "mean": float(values.mean()),
        "steps": config.epochs * len(batches),
        "scoring_macs": found.details["forward_passes"] * scoring_macs(network.macs, samples),
    }
    return Output(result, {name: values.contiguous() for name, values in gates.items()})


@runs(ByGates, "by-gates", version=2)
def by_gates(config: ByGates, inputs: Inputs, context: Context) -> Output:
    """One ranking over all layers, down to the budget; proved and verified as every cut is."""
    network, module = taken(inputs["model"])
    dense = Network.of(inputs["dense"])
    splits = opened(config.data, context.places)
    device = config.numerics.device
    module.to(device)
    image = example(splits).to(device)
    scores = inputs["gates"].tensors() if "gates" in inputs else {}
    graph = restrict(trace(module, image), module, (), config.only or None)
    scores = ordered(graph, scores, config.order, config.seed)
    budget = Budget(macs=min(int(config.share * dense.macs), network.macs))
    result = prune(
        module,
        image,
        budget=budget,
        criterion=Given(scores),
        round_to=config.round_to,
        min_channels={g.name: floor_of(config.min_channels, dense.widths.get(g.name, g.size)) for g in graph.groups},
        only=config.only or None,
    )
    # The record's dense network is the unexpanded one, which the budget is of; it may tie what the other has apart.
    small = Network.cut(network, result)
    widths = {name: width for name, width in small.widths.items() if name in dense.widths}
    dense_cost = {"dense_macs": dense.macs, "dense_params": dense.params, "dense_widths": dense.widths}
    small = replace(small, widths=widths, **dense_cost)  # type: ignore[arg-type]
    check = result.verification
    verification = {name: getattr(check, name) for name in ("exact", "max_rel_error", "dtype", "reason")}
    gates = inputs["gates"].result if "gates" in inputs else {}
    learned = {name: gates[name] for name in ("gates", "closed", "open", "mean", "steps") if name in gates}
    cost = gates.get("scoring_macs", 0)
    return left(small, result.model.cpu(), verification=verification, scoring_macs=cost, scored=learned)


def ordered(graph: ChannelGraph, gates: dict[str, Tensor], order: Order, seed: int) -> dict[str, Tensor]:
    """{group: (n,) scores, higher = keep}: the gates, the gates shuffled over all layers, or drawn widths' scores.

    drawn: every layer draws a share r in (0.1, 1]; channel j of n scores 1 - (j + 1) / (n r), so that a threshold
    keeps widths in the proportion of r.
    """
    generator = torch.Generator().manual_seed(seed)
    if order == "rank":
        return gates
    if order == "shuffled":
        together = torch.cat([gates[g.name] for g in graph.groups])
        dealt = together[torch.randperm(len(together), generator=generator)]
        return dict(zip((g.name for g in graph.groups), dealt.split([g.size for g in graph.groups]), strict=True))
    shares = 0.1 + 0.9 * (1 - torch.rand(len(graph.groups), generator=generator, dtype=torch.float64))
    places = [torch.arange(1, g.size + 1, dtype=torch.float64) for g in graph.groups]
    return {g.name: 1 - j / (g.size * r) for g, j, r in zip(graph.groups, places, shares, strict=True)}


def to_learn_on(splits: Splits, images: int, batch_size: int) -> list[Batch]:
    """Batches of the first `images` that are `scored`, of even size: a batch norm cannot train on one image.

    As uint8: they are normalised one at a time, by `loss_of`, since all of them need not fit in memory as numbers.
    """
    seen = scored(splits)
    count = min(images, len(seen))
    x, y = seen.x[:count], seen.y[:count]
    parts = -(-count // batch_size)
    return list(zip(x.tensor_split(parts), y.tensor_split(parts), strict=True))


def loss_of(splits: Splits) -> Loss:
    """The cross-entropy of a model on a batch of `to_learn_on`."""
    return lambda model, batch: F.cross_entropy(model(normalise(batch[0], splits)), batch[1])
