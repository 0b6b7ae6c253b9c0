"""Spend a budget: scores and limits -> the atoms that stay."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Literal, get_args

import numpy as np
from torch import Tensor

from torchbonsai.core.errors import BudgetError, ConfigError, PruningError, message
from torchbonsai.cost.macs import Cost, CostModel
from torchbonsai.criteria.base import Normalise
from torchbonsai.graph.channel_graph import ChannelGraph, Ints, Selection
from torchbonsai.selection.budget import Budget, at_least, ceiling, nearest, share
from torchbonsai.selection.fastest import fastest_ladder
from torchbonsai.selection.knapsack import Knapsack
from torchbonsai.selection.ladder import Bounds, Floats, Ladder, Ranking, floors, global_ladder, rank, uniform_ladder
from torchbonsai.selection.measures import Measures, Meter
from torchbonsai.selection.normalise import NORMALISERS, normalised
from torchbonsai.selection.outliers import without_outliers
from torchbonsai.selection.unreachable import unreachable
from torchbonsai.selection.widths import by_group, widths_by_group

Scope = Literal["global", "uniform", "knapsack"]
"""One ranking of all groups by score; the same share of every group; one ranking by score per cost."""
Limits = dict[str, int]
"""Field of `Cost` -> the largest value that is allowed."""
Floors = int | float | Mapping[str, int | float]
"""The fewest channels that stay: a count, a share of the group's, or either by name or pattern."""


def select(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    budget: Budget,
    *,
    scope: Scope = "global",
    round_to: int | Mapping[str, int] = 1,
    min_channels: Floors = 1,
    normalise: Normalise = "mean",
    measures: Measures | None = None,
) -> Selection:
    """{group: (n atoms,) bool, True = keep} for every group: the widest choice that meets all budgets.

    scores: {group: (n atoms,)}, higher = keep; atoms leave in the order of (score, group, channel). scope="uniform":
    one share s of every group, ⌊s·n + ½⌋ but at least `min_channels`; "global": one ranking of all groups, the scores
    of each as `selection.normalise` makes them comparable; "knapsack": one ranking by such a score over what a channel
    costs (`selection.knapsack` says how). round_to: kept counts are its multiples or the dense count;
    min_channels: the floor, an int a count, a float a share of the group's channels, rounded up; each one number, or
    {group, producing module or glob pattern: number}. measures: models and limits of memory and latency, which
    `tb.prune` makes for the budgets on them.

    Raises BudgetError where the limits cannot be met (naming the floor and what holds it up), ConfigError for options
    that are not valid, PruningError for scores that do not fit the graph.
    """
    _check_options(scope, round_to, min_channels, normalise)
    if not graph.groups:
        raise _nothing_to_prune(graph)
    measures = _measures(budget, measures)
    flat = _flat_scores(graph, scores)
    across = flat if scope == "uniform" else normalised(graph, flat, normalise)
    ranking = rank(graph, flat, across)
    sizes = np.array([g.size for g in graph.groups], dtype=np.int64)
    multiples = np.array(by_group(graph, round_to, 1, "round_to"), dtype=np.int64)
    multiples = measures.multiples(sizes, multiples)
    least = np.array(floor_counts(graph, min_channels), dtype=np.int64)
    given = _shared(graph, budget, least, multiples) | widths_by_group(graph, budget.widths or {})
    widest = sizes
    if budget.outliers is not None:
        widest = without_outliers(graph, flat, budget.outliers, floors(sizes, least, multiples), multiples)
    bounds = _bounds(graph, widest, given, searched=budget.searched, min_channels=least, round_to=multiples)
    cost = CostModel(graph)
    meter = Meter(cost, {**_limits(budget, cost.dense, sizes, bounds, scope), **measures.limits}, measures.models)
    if scope == "global" and measures.clock is not None:
        ladder = fastest_ladder(graph, bounds, ranking, across, measures.clock.marginal())
    else:
        ladder = _ladder(budget, sizes, bounds, scope, ranking)
    if scope == "knapsack":
        widths = Knapsack(graph, meter, bounds, flat, across).widths()
    else:
        widths = ladder.first(lambda w: meter.fits(ranking.kept(w)))
    if widths is None:
        raise unreachable(graph, meter, ranking.kept(ladder.widths(ladder.length - 1)), given, bounds)
    kept = ranking.kept(widths)
    return {g.name: kept[g.offset : g.offset + g.size] for g in graph.groups}


def floor_counts(graph: ChannelGraph, min_channels: Floors) -> list[int]:
    """The floor of every group as a count, in the graph's order. Raises ConfigError for a name that fits no group."""
    given: list[int | float] = by_group(graph, min_channels, 1, "min_channels")
    return [at_least(floor, group.size) for floor, group in zip(given, graph.groups, strict=True)]


def _ladder(budget: Budget, sizes: Ints, bounds: Bounds, scope: Scope, ranking: Ranking) -> Ladder:
    if scope != "uniform":
        return global_ladder(sizes, bounds, ranking)
    most = share(budget.channels) if isinstance(budget.channels, float) else Fraction(1)
    return uniform_ladder(sizes, bounds, most)


def _limits(budget: Budget, dense: Cost, sizes: Ints, bounds: Bounds, scope: Scope) -> Limits:
    limits: Limits = {}
    for name in ("macs", "params"):
        amount = getattr(budget, name)
        if amount is not None:
            limits[name] = ceiling(amount, getattr(dense, name))
    if budget.channels is not None:
        limits["channels"] = _channel_limit(budget.channels, sizes, bounds, scope)
    return limits


def _channel_limit(amount: float | int, sizes: Ints, bounds: Bounds, scope: Scope) -> int:
    """A share is a target of each group (uniform, where the floor is part of the target) or of all (global)."""
    if isinstance(amount, int):
        return amount
    if scope != "uniform":
        return nearest(share(amount), int(sizes.sum()))
    floors_ = bounds.min_channels.tolist()
    return sum(min(n, max(m, nearest(share(amount), n))) for n, m in zip(sizes.tolist(), floors_, strict=True))


def _shared(graph: ChannelGraph, budget: Budget, least: Ints, multiples: Ints) -> dict[str, int]:
    """Widths of the groups that `budget.shares` names: ⌊s·n + ½⌋, down to a multiple, not below the floor."""
    shares = by_group(graph, budget.shares or {}, math.nan, "shares")
    widths = {}
    for number, (group, amount) in enumerate(zip(graph.groups, shares, strict=True)):
        if not math.isnan(amount):
            floor = int(floors(np.array([group.size]), least[number : number + 1], multiples[number : number + 1])[0])
            wanted = nearest(share(amount), group.size) // int(multiples[number]) * int(multiples[number])
            widths[group.name] = group.size if amount == 1 else min(group.size, max(floor, wanted))
    return widths


def _bounds(
    graph: ChannelGraph, widest: Ints, given: Mapping[str, int], *, searched: bool, min_channels: Ints, round_to: Ints
) -> Bounds:
    """Given widths are fixed; the others stay at their widest unless there is a budget to search for."""
    sizes = np.array([g.size for g in graph.groups], dtype=np.int64)
    most = widest.copy()
    least = floors(sizes, min_channels, round_to) if searched else widest.copy()
    for number, group in enumerate(graph.groups):
        if group.name in given:
            most[number] = least[number] = given[group.name]
    return Bounds(most, least, round_to, min_channels)


def _measures(budget: Budget, given: Measures | None) -> Measures:
    """What was given. Raises ConfigError for a budget on what no model was given for: it would be ignored."""
    if given is None and budget.measured:
        raise _invalid("a budget on memory or latency needs the network itself: tb.prune measures it", budget)
    return given or Measures()


def _flat_scores(graph: ChannelGraph, scores: Mapping[str, Tensor]) -> Floats:
    """(n_atoms,) float64. Raises PruningError where a group has no score, or not one finite number an atom."""
    flat = np.empty(graph.n_atoms)
    for group in graph.groups:
        values = scores.get(group.name)
        if values is None or tuple(values.shape) != (group.size,) or not bool(values.isfinite().all()):
            got = "nothing" if values is None else f"shape {tuple(values.shape)}, {values}"
            raise PruningError(
                message(
                    f"group {group.name!r} needs {group.size} finite scores, one a channel",
                    got,
                    "scores of another graph, or a criterion that divides by zero",
                    "check them with tb.testing.check_criterion",
                )
            )
        flat[group.offset : group.offset + group.size] = values.detach().cpu().double().numpy()
    return flat


def _check_options(scope: str, round_to: int | Mapping[str, int], min_channels: Floors, normalise: str | None) -> None:
    if scope not in get_args(Scope):
        raise _invalid(f"scope must be one of {', '.join(map(repr, get_args(Scope)))}", scope)
    if normalise is not None and normalise not in NORMALISERS:
        raise _invalid(f"normalise must be None or one of {', '.join(map(repr, NORMALISERS))}", normalise)
    for value in round_to.values() if isinstance(round_to, Mapping) else [round_to]:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise _invalid("round_to must be a positive int", value)
    for floor in min_channels.values() if isinstance(min_channels, Mapping) else [min_channels]:
        if not is_floor(floor):
            raise _invalid("min_channels must be a positive int, a count, or a float in (0, 1], a share", floor)


def is_floor(value: object) -> bool:
    """Whether `value` is a floor of channels: a positive int, or a float in (0, 1]."""
    return (0 < value <= 1) if isinstance(value, float) else type(value) is int and value >= 1


def _invalid(must: str, got: object) -> ConfigError:
    return ConfigError(message(must, repr(got), "a typing error", "see the documentation of tb.prune"))


def _nothing_to_prune(graph: ChannelGraph) -> BudgetError:
    reasons = dict.fromkeys(f"{f.name}: {f.reason}" + (f" ({f.source})" if f.source else "") for f in graph.frozen)
    return BudgetError(
        message(
            "a budget needs at least one channel that can be removed",
            "a network whose every channel is frozen",
            "\n    ".join(reasons) or "the network has no layer between its input and its output",
            "see graph.explain(); `ignore` and `only` freeze channels too",
        )
    )
