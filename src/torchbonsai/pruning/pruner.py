"""`tb.Pruner`: cuts in the middle of a training loop, in place, on the objects that the loop holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from torchbonsai.core.errors import ConfigError, PlanError, message
from torchbonsai.cost.macs import Cost
from torchbonsai.criteria.base import NEEDS_DATA, Criterion, no_batches
from torchbonsai.graph.forward import permanent, unwrap
from torchbonsai.pruning.approach import Approach
from torchbonsai.pruning.controls import Named, named, restrict
from torchbonsai.pruning.prune import Costs, PruneResult, check_budget, prune, trace
from torchbonsai.pruning.rounds import otherwise, widths_of
from torchbonsai.pruning.schedules import OneShot, Schedule
from torchbonsai.selection.budget import Budget
from torchbonsai.selection.select import Floors, Scope
from torchbonsai.surgery.apply import apply
from torchbonsai.surgery.in_place import check_followers, narrow_in_place
from torchbonsai.surgery.plan import PruningPlan, compose
from torchbonsai.surgery.verify import NOT_COMPARED, Verification, same_outputs

Loss = Callable[[nn.Module, Any], torch.Tensor]


@dataclass(frozen=True)
class _Settings:
    """What every cut is asked for."""

    criterion: Criterion | None
    scope: Scope
    round_to: int | Mapping[str, int]
    min_channels: Floors
    ignore: tuple[str, ...]
    only: tuple[str, ...] | None
    loss: Loss | None
    verify: bool


class Pruner:
    """Prunes `model` while it is trained: call `step()` once after every step of the optimizer.

    At a cut the small network is made beside the given one, proved and compared as in `tb.prune`; then, all or
    nothing, the model's parameters are replaced under the same names, the optimizer's state is sliced, and what
    `follow` names goes with it: averaged copies (AveragedModel, any module of the same structure, or a dict of
    name -> tensor), schedulers and grad scalers. Gradients are sliced too, for loops that accumulate.

    budget: macs, params, channels or widths of the original network, shares or absolute numbers; others have no way
    there, and are refused. schedule: when and how far, see `torchbonsai.pruning.schedules`; default: all at the first
    step. batches: read at every cut; a generator is read once and kept. min_channels: a float is a share of the
    original's channels. Other settings: as in `tb.prune`. A module that is wrapped in DistributedDataParallel is
    refused, since the wrapper keeps the old parameters; torch.compile compiles anew.

    >>> import torch, torchbonsai as tb
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    >>> pruner = tb.Pruner(net, torch.randn(1, 8), optimizer, budget=tb.Budget(channels=0.25),
    ...                    schedule=tb.schedules.Iterative(cuts=2, every=5))
    >>> for _ in range(10):
    ...     optimizer.zero_grad()
    ...     net(torch.randn(4, 8)).square().mean().backward()
    ...     optimizer.step()
    ...     if pruner.step():
    ...         print(net[0].out_features)
    8
    4
    >>> pruner.result().plan.shapes["0.weight"], len(pruner.result().plan.kept["0.weight"][0])
    ((16, 8), 4)
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        optimizer: torch.optim.Optimizer,
        *,
        budget: Budget,
        criterion: Criterion | None = None,
        schedule: Schedule | None = None,
        scope: Scope = "global",
        round_to: int | Mapping[str, int] = 1,
        min_channels: Floors = 1,
        ignore: Named = (),
        only: Named = None,
        batches: Iterable[Any] | None = None,
        loss: Loss | None = None,
        follow: Iterable[Any] = (),
        verify: bool = True,
    ) -> None:
        """Traces the model, so that what cannot be pruned fails here. Raises what `tb.prune` raises."""
        check_budget(budget)
        self.model, self.example_inputs, self.optimizer = model, example_inputs, optimizer
        self.follow = tuple(follow)
        self._net = _own(model)
        ignored = named(self._net, ignore, "ignore")
        allowed = None if only is None else named(self._net, only, "only")
        self._set = _Settings(criterion, scope, round_to, min_channels, ignored, allowed, loss, verify)
        self._batches = list(batches) if batches is not None and iter(batches) is batches else batches
        if criterion is not None and criterion.needs & NEEDS_DATA and self._batches is None:
            raise no_batches("none")
        check_followers(self._net, optimizer, self.follow)
        self._graph = restrict(trace(self._net, example_inputs), self._net, ignored, allowed)
        way = schedule if schedule is not None else OneShot()
        self._approach = Approach(self._graph, budget, way, scope, round_to, min_channels)
        self._dense = self._approach.dense
        self._step, self._cuts = 0, 0
        self._plan = PruningPlan({}, {})
        self._cost = self._dense
        self._checked = NOT_COMPARED
        self._last: PruneResult | None = None

    @property
    def steps(self) -> int:
        """How often `step` was called."""
        return self._step

    @property
    def cuts(self) -> int:
        """How many cuts were made."""
        return self._cuts

    def step(self) -> bool:
        """Count one training step, and cut if the schedule says so; True where channels were removed.

        Raises what `tb.prune` raises, and PlanError where optimizer, averaged copies or the module itself cannot
        follow; then nothing has changed.
        """
        number = self._step + 1
        budget = self._approach.due(number)
        cut = budget is not None and self._cut(budget)
        self._step = number
        return cut

    def result(self) -> PruneResult:
        """The network, and one plan from the original to it.

        cost: of the original and of now. verification: of all cuts, the worst error of any. graph, selection and
        scores: of the last cut that this object made.
        """
        last = self._last
        costs = Costs(self._dense, self._cost)
        if last is None:
            return PruneResult(self.model, self._plan, costs, self._checked, {}, self._graph, {})
        return replace(last, model=self.model, plan=self._plan, cost=costs, verification=self._checked)

    def state_dict(self) -> dict[str, Any]:
        """Plain data to go on from: steps, cuts, the plan so far, costs and verification."""
        return {
            "version": 1,
            "step": self._step,
            "cuts": self._cuts,
            "plan": self._plan.to_json(),
            "dense": asdict(self._dense),
            "cost": asdict(self._cost),
            "verification": asdict(self._checked),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Bring a *fresh* model, optimizer and followers to the shapes of `state`; then load their own states.

        Raises PlanError where `state` belongs to another model, or this pruner has cut already.
        """
        if self._cuts or state.get("version") != 1 or state["dense"] != asdict(self._dense):
            raise PlanError(
                message(
                    "a pruner's state must go to a pruner of the same model, budgeted and not cut yet",
                    f"{self._cuts} cuts here; dense cost {state.get('dense')}, here {asdict(self._dense)}",
                    "the saved weights were loaded first, or the state is of another model",
                    "build the dense model, load the pruner's state, then the model's and the optimizer's",
                )
            )
        plan = PruningPlan.from_json(state["plan"])
        small = apply(plan, self._net)
        narrow_in_place(plan, self._net, small, self.optimizer, self.follow, lambda: self._check(small))
        self._step, self._cuts, self._plan = int(state["step"]), int(state["cuts"]), plan
        self._cost, self._checked = Cost(**state["cost"]), Verification(**state["verification"])

    def _cut(self, budget: Budget) -> bool:
        given, asked = self._set, budget
        round_to: int | Mapping[str, int] = given.round_to
        floors: Floors = given.min_channels
        if self._cuts:
            if self._approach.reached(budget, self._cost, self._plan):
                return False
            if self._approach.named(budget):
                now = restrict(trace(self._net, self.example_inputs), self._net, given.ignore, given.only)
                budget, round_to, floors = self._approach.again(budget, now, self._plan)
        whole = given.scope == "uniform"  # the widths have been rounded already
        result = prune(
            self._net,
            self.example_inputs,
            budget=budget,
            criterion=given.criterion,
            scope=given.scope,
            round_to=1 if whole else round_to,
            min_channels=1 if whole else floors,
            ignore=given.ignore,
            only=given.only,
            batches=self._batches,
            loss=given.loss,
            verify=given.verify,
        )
        if not result.plan.kept:
            return False
        small = result.model
        plan = compose(self._plan, result.plan) if self._cuts else result.plan
        widths = widths_of(self._approach.places, plan)
        cost = replace(result.cost.after, channels=sum(widths.values()))
        notes = [*result.notes, *otherwise(widths, asked.widths or {})]
        if asked.channels is not None and cost.channels > asked.channels:
            notes.append(f"the proof of a cut tied channels: {cost.channels} stay for {asked.channels}")
        narrow_in_place(result.plan, self._net, small, self.optimizer, self.follow, lambda: self._check(small))
        self._checked = result.verification if not self._cuts else _both(self._checked, result.verification)
        self._plan, self._cost, self._last = plan, cost, replace(result, notes=tuple(notes))
        self._cuts += 1
        return True

    def _check(self, small: nn.Module) -> None:
        try:
            got = "" if same_outputs(self._net, small, self.example_inputs) else "other outputs"
        except RuntimeError as error:
            got = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        if got:
            raise PlanError(
                message(
                    "the module that was cut in place must equal the small network that was proved",
                    f"{got}; everything was put back",
                    "the module keeps parameters in a plain list or closure, where they cannot be replaced",
                    "keep them in nn.ParameterList, or prune a copy with tb.prune",
                )
            )


def _own(model: nn.Module) -> nn.Module:
    if isinstance(model, DistributedDataParallel):
        raise ConfigError(
            message(
                "a Pruner needs the module itself, not its DistributedDataParallel wrapper",
                "DistributedDataParallel, which keeps the parameters that it was built with",
                "the model was wrapped before the pruner was made",
                "give wrapper.module, and wrap it anew after every cut (step() returns True)",
            )
        )
    net = unwrap(model)
    if permanent(net) is not net:
        raise ConfigError(
            message(
                "a model that is pruned in place must have no masks of torch.nn.utils.prune",
                "masks, which reparametrise the weights",
                "another pruning tool was used before",
                "make them permanent with torch.nn.utils.prune.remove",
            )
        )
    return net


def _both(first: Verification, second: Verification) -> Verification:
    """What holds of two cuts one after the other: each was compared with its own masked network."""
    errors = [v.max_rel_error for v in (first, second)]
    error = None if None in errors else max(e for e in errors if e is not None)
    reason = "; ".join(dict.fromkeys(v.reason for v in (first, second) if v.reason))
    kinds = {v.dtype for v in (first, second) if v.dtype}
    rounding = max((v.rounding for v in (first, second) if v.rounding is not None), default=None)
    dtype = "float32" if "float32" in kinds else first.dtype
    return Verification(first.exact and second.exact, error, reason, dtype, rounding=rounding)
