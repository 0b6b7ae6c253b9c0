"""`tb.trace` and `tb.prune`: the one way through the engine, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from torchbonsai.core.errors import ConfigError, PlanError, message
from torchbonsai.cost.macs import Cost, CostModel
from torchbonsai.criteria.base import NEEDS_DATA, Criterion, Scores, ScoringContext
from torchbonsai.criteria.magnitude import Magnitude
from torchbonsai.graph.blocks import Asked
from torchbonsai.graph.channel_graph import Blocks, ChannelGraph, Selection
from torchbonsai.graph.forward import alias_copy, collector_at_rest, permanent, unwrap
from torchbonsai.graph.outputs import Narrow
from torchbonsai.graph.trace import observe
from torchbonsai.pruning.controls import Named, Wanted, named, resolved, restrict
from torchbonsai.pruning.folding import Folding, How, new_parameters, requested
from torchbonsai.pruning.meters import Candidate, Clocked, Meters
from torchbonsai.pruning.zeros import select_zeros
from torchbonsai.selection.budget import Budget
from torchbonsai.selection.select import Floors, Scope, select
from torchbonsai.selection.widths import still_named
from torchbonsai.surgery.apply import apply
from torchbonsai.surgery.optimizer import remember
from torchbonsai.surgery.plan import PruningPlan
from torchbonsai.surgery.settle import Settler
from torchbonsai.surgery.verify import NOT_COMPARED, Verification
from torchbonsai.surgery.verify import verify as compare_with_masked

_MOST_ROUNDS = 200
NUMBERS = ("min_channels", "round_to")
"""Options that may say a number for groups by name."""
_Widths = Callable[[], Mapping[str, int]]


@dataclass(frozen=True)
class Costs:
    """Of one eval forward on the example inputs, before and after."""

    before: Cost
    after: Cost


@dataclass(frozen=True, eq=False)
class PruneResult:
    """model: the small network, of the user's own class. scores: higher = keep, before normalising.

    details: what the criterion found out beside the scores, by name (standard errors, say); see its documentation.
    latency: as measured, where the budget says on what device.
    """

    model: nn.Module
    plan: PruningPlan
    cost: Costs
    verification: Verification
    scores: Scores
    graph: ChannelGraph
    selection: Selection
    notes: tuple[str, ...] = field(default=())
    details: Mapping[str, Any] = field(default_factory=dict)
    latency: Clocked | None = None


def trace(
    model: nn.Module, example_inputs: Any, *, prune_outputs: Narrow = False, blocks: Wanted = None
) -> ChannelGraph:
    """Find the channel groups of `model`, and what is frozen, by which op at which line.

    One forward pass in eval mode and one in train mode on a copy, then a trial cut of half of every group, so that
    widths baked into Python show. example_inputs: a Tensor, a tuple of positional or a dict of keyword inputs, or a
    list of these (several examples, traces joined). prune_outputs, blocks: as for `prune`. The
    model, its buffers, flags and the random state stay as found. Raises TraceError where the forward does not run.

    >>> import torch, torchbonsai as tb
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    >>> print(tb.trace(net, torch.randn(1, 8)).explain())
    1 groups, 6 channels can be removed
      0: 6 channels; read by 2
    frozen: 2 channels
      2: 2 channels: it is an output of the model
    """
    model = permanent(unwrap(model))
    with collector_at_rest():
        asked = Asked(prune_outputs, resolved(model, blocks))

        def observed(hollow: bool, blocks: Blocks) -> ChannelGraph:
            return observe(model, example_inputs, hollow, replace(asked, blocks=blocks))

        graph = observed(True, asked.blocks)
        settler = Settler(model, example_inputs, graph, observed)
        return _probe(settler, graph)


def _probe(settler: Settler, graph: ChannelGraph) -> ChannelGraph:
    """Cut about half of every group, at random, until the proof holds."""
    for _ in range(_MOST_ROUNDS):
        generator = np.random.default_rng(0)
        kept = np.ones(graph.n_atoms, dtype=bool)
        for g in graph.groups:
            gone = generator.permutation(g.size)[: g.size // 2]
            kept[g.offset + gone] = False
        if kept.all():
            return graph
        settled = settler.settle(graph, kept)
        if settled.small is not None:
            return graph
        graph = settled.graph
    raise _endless()


def prune(
    model: nn.Module,
    example_inputs: Any,
    *,
    budget: Budget,
    criterion: Criterion | None = None,
    scope: Scope = "global",
    round_to: int | Mapping[str, int] = 1,
    min_channels: Floors = 1,
    ignore: Named = (),
    only: Named = None,
    batches: Iterable[Any] | None = None,
    loss: Callable[[nn.Module, Any], torch.Tensor] | None = None,
    verify: bool = True,
    prune_outputs: Narrow = False,
    blocks: Wanted = None,
    fold: How = None,
) -> PruneResult:
    """Remove channels until `budget` is met, and check that the small network equals the masked large one.

    criterion: default `Magnitude(p=2)`. scope: "global" ranks all channels together, "uniform" takes the same share of
    every group, "knapsack" ranks by score per cost. min_channels: what every group keeps at least, an int a count, a
    float a share of its channels, rounded up. batches, loss: for criteria that need data. verify=False skips the
    numbers, never the proof of the routing. prune_outputs: for backbones; True, or names or positions of outputs that
    may lose channels, which are then compared on the channels that stay (`plan.outputs`). blocks: what leaves where
    channels lie in equal blocks (attention heads, groups of a GroupNorm, maxout): "whole" blocks, or the same positions
    "inside" each; or a dict of these by module name or pattern. By default what leaves more to choose from, the other
    where that fails. The given model is never touched.

    fold: "constant" adds to the biases of those who read removed channels what these gave them always (a norm's shift
    through a ReLU, say), where that is proved or, with batches, never changed; "mean" what they gave on average over
    `batches` and positions. Where a batch norm alone reads a contraction without a bias, its running mean takes it up;
    else a bias is added. `plan.folds` has the numbers, the result's notes say what could not be folded, and why.

    Raises TraceError, ConfigError, BudgetError, DataError, PlanError or VerificationError, each with its way out.

    >>> import torch, torchbonsai as tb
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    >>> result = tb.prune(net, torch.randn(1, 8), budget=tb.Budget(channels=0.5))
    >>> result.model[0].out_features, result.cost.before.macs, result.cost.after.macs
    (3, 60, 30)
    >>> result.verification.exact
    True

    A channel that is always 3 leaves, and what it gave stays:

    >>> with torch.no_grad():
    ...     net[0].weight[:3] = 0
    ...     net[0].bias[:3] = 3
    >>> inputs = torch.randn(5, 8)
    >>> small = tb.prune(net, inputs, budget=tb.Budget(channels=0.5), fold="constant").model
    >>> torch.allclose(small(inputs), net(inputs), atol=1e-6)
    True
    """
    check_budget(budget)
    given, model = model, permanent(unwrap(model))
    ignored, allowed = named(model, ignore, "ignore"), None if only is None else named(model, only, "only")
    criterion = criterion if criterion is not None else Magnitude(p=2)
    with collector_at_rest():

        def observed(hollow: bool, blocks: Blocks) -> ChannelGraph:
            graph = observe(model, example_inputs, hollow, Asked(prune_outputs, blocks))
            return restrict(graph, model, ignored, allowed)

        graph = observed(True, resolved(model, blocks))
        settler = Settler(model, example_inputs, graph, observed)
        known = list(batches) if batches is not None and (criterion.needs & NEEDS_DATA or fold) else None
        folding = requested(fold, example_inputs, known, loss, budget)
        scored = alias_copy(model) if criterion.needs & NEEDS_DATA else model  # a forward may write into attributes
        if scored is not model or _by_name(budget, min_channels, round_to):
            graph = _probe(settler, graph)  # settle groups before costly scores are taken, and names are read
        options: Any = {"scope": scope, "round_to": round_to, "min_channels": min_channels}
        search = _Search(
            model, example_inputs, budget, criterion, settler, Meters(model, example_inputs, budget), options,
            lambda graph, uniform: ScoringContext(graph, scored, known, loss, example_inputs, uniform),
        )  # fmt: skip
        return _result(search.run(graph), given, model, example_inputs, verify, folding)


def _by_name(budget: Budget, *numbers: object) -> bool:
    """Whether groups are named, which means those that `trace` shows."""
    return any(isinstance(given, Mapping) for given in (budget.widths, budget.shares, *numbers))


@dataclass(frozen=True)
class _Found:
    """A cut that is proved and within the budget, the scores it was made by, and what was noted on the way."""

    chosen: Candidate
    scores: Scores
    context: ScoringContext


@dataclass(frozen=True)
class _Search:
    """Scores, selects and settles, again wherever the proof or a measurement asks for it. options: of `select`."""

    model: nn.Module
    example_inputs: Any
    budget: Budget
    criterion: Criterion
    settler: Settler
    meters: Meters
    options: Mapping[str, Any]
    context_of: Callable[[ChannelGraph, _Widths | None], ScoringContext]

    def run(self, graph: ChannelGraph) -> _Found:
        """Raises BudgetError, DataError or PlanError."""
        context, options = None, self.options
        for _ in range(_MOST_ROUNDS):
            if context is None or context.graph is not graph:
                if context is not None:
                    options = self._still(graph)
                context = self.context_of(graph, self._uniform(graph, options))
                scores = context.resolve(self.criterion)
                context.notes += _untold(self.options, options)
            selection = self._selected(graph, scores, options)
            kept = graph.keep(selection)
            settled = self.settler.settle(graph, kept)
            if settled.plan is None:
                graph = settled.graph
                continue
            if (self.budget.zeros or self.budget.outliers is not None) and kept.all():
                what = "zero" if self.budget.zeros else "an outlier"
                context.notes.append(f"no channel is {what}: nothing was removed")
            chosen = self.meters.judge(Candidate(settled, kept, selection))
            if chosen is not None:
                return _Found(chosen, scores, context)
        raise _endless()

    def _still(self, graph: ChannelGraph) -> Mapping[str, Any]:
        """The options for a graph that ties groups which were apart when they were named."""
        return {**self.options, **{name: still_named(graph, self.options[name]) for name in NUMBERS}}

    def _uniform(self, graph: ChannelGraph, options: Mapping[str, Any]) -> _Widths | None:
        """Makes the widths of one share of every group; None where the budget is of what scores or weights say."""
        if self.budget.zeros or self.budget.outliers is not None:
            return None

        def widths() -> dict[str, int]:
            alike = {group.name: torch.zeros(group.size) for group in graph.groups}
            selection = self._selected(graph, alike, {**options, "scope": "uniform"})
            return {name: int(kept.sum()) for name, kept in selection.items()}

        return widths

    def _selected(self, graph: ChannelGraph, scores: Scores, options: Mapping[str, Any]) -> Selection:
        if self.budget.zeros:
            return select_zeros(graph, self.settler, self.model, self.example_inputs)
        normalise, measures = self.criterion.normalise, self.meters.of(graph)
        return select(graph, scores, self.budget, normalise=normalise, measures=measures, **options)


def _untold(given: Mapping[str, Any], left: Mapping[str, Any]) -> list[str]:
    """A note for each of `NUMBERS` some of whose names are no group's any more."""
    gone = {n: sorted(given[n].keys() - left[n].keys()) for n in NUMBERS if isinstance(given[n], Mapping)}
    return [
        f"{name} of {', '.join(names)} does not hold: the proof of the cut tied it to others"
        for name, names in gone.items()
        if names
    ]


def _result(
    found: _Found, given: nn.Module, model: nn.Module, example_inputs: Any, compare: bool, folding: Folding | None
) -> PruneResult:
    chosen, context = found.chosen, found.context
    settled, kept = chosen.settled, chosen.kept
    graph, plan, small = settled.graph, settled.plan, settled.small
    assert plan is not None
    assert small is not None
    notes = (*graph.notes, *context.notes, *map(str, plan.scales))
    if folding is not None:
        plan, said = folding.into(graph, plan, kept, model)
        small, notes = apply(plan, model) if plan.folds else small, (*notes, *said)
    checked = compare_with_masked(graph, plan, kept, model, small, example_inputs) if compare else NOT_COMPARED
    costs = CostModel(graph)
    remember(plan, given if given is model else model)
    after = costs.of(kept)
    cost = Costs(costs.dense, replace(after, params=after.params + new_parameters(plan, graph)))
    selection, details, clocked = chosen.selection, context.details, chosen.clocked
    return PruneResult(small, plan, cost, checked, found.scores, graph, selection, notes, details, clocked)


def check_budget(budget: Any) -> None:
    """Raises ConfigError for what is no Budget."""
    if not isinstance(budget, Budget):
        raise ConfigError(
            message(
                "budget= must be a tb.Budget",
                f"{type(budget).__name__}: {budget!r}",
                "a share without the word for what it is a share of",
                "write budget=tb.Budget(macs=0.5)",
            )
        )


def _endless() -> PlanError:
    return PlanError(
        message(
            "The routing must settle.",
            f"{_MOST_ROUNDS} selections, each of which failed its proof somewhere else",
            "widths are baked into many places of the forward",
            "name the part with ignore=, or compute sizes from tensors' shapes",
        )
    )
