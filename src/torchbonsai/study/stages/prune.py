"""Stages that cut: by a criterion's scores, by outliers, or random channels at the widths that another stage chose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from torchbonsai.core.config import added_later
from torchbonsai.criteria.apoz import APoZ
from torchbonsai.criteria.base import ScoringContext
from torchbonsai.criteria.linear_fit import LinearFit
from torchbonsai.graph.channel_graph import ChannelGraph
from torchbonsai.pruning.controls import restrict
from torchbonsai.pruning.prune import PruneResult, trace
from torchbonsai.pruning.prune import prune as cut
from torchbonsai.pruning.rounds import by_group, can_go, frozen, held, otherwise, places_of
from torchbonsai.selection.budget import Budget, ceiling, share
from torchbonsai.selection.ladder import Bounds, floors, uniform_ladder
from torchbonsai.study.fairness import scoring_macs
from torchbonsai.study.methods import Method, criterion_of, needs_images, passes_of
from torchbonsai.study.numerics import Numerics
from torchbonsai.study.stage import Context, Inputs, Output, runs
from torchbonsai.study.stages.floor import floor_of, floors_of
from torchbonsai.study.stages.images import Images, example, opened, to_score_on
from torchbonsai.study.stages.network import Network, left, taken
from torchbonsai.study.stages.outliers import Given, apoz_by_layer, nothing_outlying, outlying
from torchbonsai.study.store import Done


@dataclass(frozen=True)
class Prune:
    """Cut the parent "model" to `share` of the dense network's MACs (or what `of` says), however often it was cut.

    score_images: of the training split, where the method needs data; hold_out: of its so many last images, which were
    not trained on. only: modules whose channels may go. min_channels: an int is a count, a float a share of the dense
    width, see `stages.floor`.
    """

    data: Images
    method: Method
    share: float
    seed: int
    numerics: Numerics
    scope: Literal["global", "uniform", "knapsack"] = "global"
    round_to: int = 1
    min_channels: int | float = 1
    score_images: int = 1000
    of: Literal["macs", "params", "channels"] = "macs"
    only: tuple[str, ...] = ()
    hold_out: int = 0


@dataclass(frozen=True)
class Trim:
    """Cut from the parent "model" the channels whose APoZ is an outlier of its layer.

    deviations: k of mean + k standard deviations. only: the modules that are trimmed; none: the `layers` modules whose
    mean APoZ is the highest now, of those that can lose a channel.
    """

    data: Images
    seed: int
    numerics: Numerics
    deviations: float = 1.0
    only: tuple[str, ...] = ()
    layers: int = 2
    min_channels: int | float = 2
    score_images: int = 1000
    hold_out: int = 0
    round_to: int = added_later(1)


@dataclass(frozen=True)
class RandomWidths:
    """The control: random channels of the parent "model", as many a group as the parent "like" kept."""

    data: Images
    seed: int
    numerics: Numerics


@runs(Prune, "prune", version=5)
def prune(config: Prune, inputs: Inputs, context: Context) -> Output:
    """Score on training images, select, prove, cut, verify."""
    network, module = taken(inputs["model"])
    splits = opened(config.data, context.places)
    criterion = criterion_of(config.method, config.seed)
    batches = to_score_on(splits, config.score_images, config.hold_out) if needs_images(criterion) else None
    module.to(config.numerics.device)
    image = example(splits).to(config.numerics.device)
    result = cut(
        module,
        image,
        budget=_budget(config, network, module, image),
        criterion=criterion,
        scope=config.scope,
        round_to=config.round_to,
        min_channels=_floors(config, network, module, image),
        only=config.only or None,
        batches=batches,
    )
    samples = sum(len(y) for _, y in batches or ())
    scoring = passes_of(criterion, result.details) * scoring_macs(network.macs, samples)
    zeros: dict[str, Any] = {"scored": {"apoz": apoz_by_layer(result.scores)}} if isinstance(criterion, APoZ) else {}
    scoring += scoring_macs(network.macs, result.details.get("example_passes", 0))
    wanted = _one_share_wanted(config, network, result)
    return _left(network, result, scoring, wanted=wanted, least=config.min_channels, **zeros)


def _one_share_wanted(config: Prune, network: Network, result: PruneResult) -> dict[str, int]:
    """{group of the dense network: channels} where one share of every layer was asked for, of layers that can go."""
    if config.scope != "uniform" or config.of != "channels":
        return {}
    atoms = held(network.places, network.cuts, result.graph)
    widths = one_share(network, config.share, config.round_to, config.min_channels)
    return {name: widths[name] for name, mine in atoms.items() if can_go(mine)}


def _budget(config: Prune, network: Network, module: nn.Module, image: Tensor) -> Budget:
    """A share of the dense network's, said of the network as it is; one share of every layer as widths."""
    uniform = config.scope == "uniform" and config.of == "channels"
    if network.plan is None and not uniform:
        return Budget(**{config.of: config.share})  # type: ignore[arg-type]
    if config.of == "channels":
        graph = restrict(trace(module, image), module, (), config.only or None)
        atoms = held(network.places or places_of(graph), network.cuts, graph)
        if uniform:
            widths = one_share(network, config.share, config.round_to, config.min_channels)
            return Budget(widths=by_group(graph, atoms, widths))
        # The last channel of a layer is one of the dense network's, but none that the graph of this one counts.
        return Budget(channels=max(1, ceiling(config.share, sum(network.dense_widths.values())) - frozen(atoms)))
    dense = {"macs": network.dense_macs, "params": network.dense_params}
    return Budget(**{config.of: max(1, ceiling(config.share, dense[config.of]))})  # type: ignore[arg-type]


def _floors(config: Prune, network: Network, module: nn.Module, image: Tensor) -> dict[str, int]:
    """By name, so that the groups that are cut are those of the trace, in the arm and in its random control alike."""
    return floors_of(config.min_channels, network, restrict(trace(module, image), module, (), config.only or None))


def one_share(network: Network, part: float, round_to: int, min_channels: int | float) -> dict[str, int]:
    """{group: channels} at one share of every dense width, as a selection with scope "uniform" begins: rounded down to
    multiples of `round_to`, but not below the floor; and never wider than the network is now."""
    dense = np.array([*network.dense_widths.values()])
    now = np.array([network.widths[name] for name in network.dense_widths])
    multiples, least = np.full_like(dense, round_to), np.array([floor_of(min_channels, n) for n in dense.tolist()])
    bounds = Bounds(now, floors(dense, least, multiples), multiples, least)
    widths = uniform_ladder(dense, bounds, share(part)).widths(0)
    return dict(zip(network.dense_widths, widths.tolist(), strict=True))


@runs(Trim, "trim", version=5)
def trim(config: Trim, inputs: Inputs, context: Context) -> Output:
    """Score on training images, choose by layer, prove, cut, verify."""
    network, module = taken(inputs["model"])
    splits = opened(config.data, context.places)
    batches = to_score_on(splits, config.score_images, config.hold_out)
    module.to(config.numerics.device)
    image = example(splits).to(config.numerics.device)
    graph = restrict(trace(module, image), module, (), config.only or None)
    given = ScoringContext(graph, module, batches).resolve(APoZ())
    layers = None if config.only else config.layers
    least = floors_of(config.min_channels, network, graph)
    widths = outlying(given, config.deviations, layers, least, config.round_to)
    if not widths:
        raise nothing_outlying(config.deviations)
    result = cut(module, image, budget=Budget(widths=widths), criterion=Given(given))
    samples = sum(len(y) for _, y in batches)
    return _left(network, result, scoring_macs(network.macs, samples), scored={"apoz": apoz_by_layer(given)})


@runs(RandomWidths, "random-widths", version=5)
def random_widths(config: RandomWidths, inputs: Inputs, context: Context) -> Output:
    """The same widths, channels drawn at random."""
    network, module = taken(inputs["model"])
    device = config.numerics.device
    image = example(opened(config.data, context.places)).to(device)
    like = Network.of(inputs["like"])
    graph = trace(module.to(device), image)
    widths = _as_cut(inputs["like"], graph) or by_group(graph, held(like.places, network.cuts, graph), like.widths)
    narrower = {name: n for name, n in widths.items() if n < graph.by_name[name].size}
    # Where widths are rounded, a round may cut nothing.
    budget = Budget(widths=narrower or widths)
    result = cut(module, image, budget=budget, criterion=criterion_of(Method("random"), config.seed))
    return _left(network, result, 0, wanted=like.widths, like=like)


def _as_cut(like: Done, graph: ChannelGraph) -> dict[str, int]:
    """{group: channels} that the cut of `like` kept, if it went by groups of `graph`; else nothing.

    Widths by layers of the dense network do not say it all: a layer whose channels left by twos there, and are counted
    by twos, may be cut one by one later.
    """
    groups: dict[str, list[int]] = like.result.get("groups", {})
    sizes = {group.name: group.size for group in graph.groups}
    same = all(sizes.get(name) == size for name, (size, _) in groups.items())
    return {name: kept for name, (_, kept) in groups.items()} if same else {}


def _left(
    network: Network,
    result: PruneResult,
    scoring: int,
    *,
    wanted: Mapping[str, int] = MappingProxyType({}),
    least: int | float = 1,
    like: Network | None = None,
    **more: Any,
) -> Output:
    check = result.verification
    verification = {
        "exact": check.exact,
        "max_rel_error": check.max_rel_error,
        "dtype": check.dtype,
        "reason": check.reason,
    }
    small = Network.cut(network, result)
    lowest = {n: min(floor_of(least, size), size) for n, size in small.dense_widths.items()}
    notes = [n for n in result.notes if n not in result.graph.notes] + otherwise(small.widths, wanted, lowest)
    notes += [] if like is None else _unlike(small, like)
    groups = {name: [len(mask), int(mask.sum())] for name, mask in result.selection.items()}
    told = {"notes": notes, "scored": scored(result), "groups": groups}
    return left(small, result.model.cpu(), verification=verification, scoring_macs=scoring, **(told | more))


def _unlike(small: Network, like: Network) -> list[str]:
    """A note on layers of other shapes than those of `like`, whose random control `small` is."""
    mine, theirs = _shapes(small), _shapes(like)
    layers = sorted(
        {name.rpartition(".")[0] for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)}
    )
    if not layers:
        return []
    named = ", ".join(layers[:3]) + (f" and {len(layers) - 3} more" if len(layers) > 3 else "")
    return [f"the random control has other shapes than its arm in {named}: their cuts tied different layers"]


def _shapes(network: Network) -> dict[str, dict[int, int]]:
    """Tensor -> axis -> positions that stay, of what was narrowed."""
    kept = {} if network.cuts is None else network.cuts.kept
    return {name: {axis: len(stay) for axis, stay in axes.items()} for name, axes in kept.items()}


def scored(result: PruneResult) -> dict[str, float]:
    """How sure the scores of linear filter ensembles are; nothing of other criteria.

    Where sampling was to stop early, also in how many layers of how many the ranking was settled at the cut that was
    expected, and the doubt at the one that was made: the share of channels that are expected on its wrong side.
    """
    named: dict[str, LinearFit] = result.details.get("linear_fits", {})
    fits = list(named.values())
    if not fits:
        return {}
    found = {
        "channels": sum(len(fit.effects) for fit in fits),
        "masks": result.details["masks"],  # those over all layers at once are of every layer's fit
        "standard_error": float(torch.cat([fit.standard_errors for fit in fits]).nanmedian()),
        "spread": float(torch.cat([fit.effects for fit in fits]).std()),
    }
    if all(fit.settled is not None for fit in fits):
        wrong = sum(fit.doubt(float(result.selection[name].mean())) * len(fit.effects) for name, fit in named.items())
        found |= {
            "layers": len(fits),
            "settled": sum(fit.settled is True for fit in fits),
            "doubt": wrong / found["channels"],
        }
    return {name: value for name, value in found.items() if math.isfinite(value)}
