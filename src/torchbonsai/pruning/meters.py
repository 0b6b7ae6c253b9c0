"""Budgets on memory and latency: models of what a selection costs, and the clock that has the last word.

Latency is predicted from a table of layers, the selection is cut, proved, and then measured beside the dense network,
in turns. Where that is more than 10 % off, the prediction is corrected by what was measured and the selection made
again; what was measured in the end is in the result.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from torchbonsai.core.errors import BudgetError, message
from torchbonsai.cost.latency import device_name
from torchbonsai.cost.memory import BytesModel, PeakModel
from torchbonsai.cost.predict import LatencyModel
from torchbonsai.cost.runtime import Loaded, Target, parse_target, runtime_named
from torchbonsai.cost.table import LayerTable
from torchbonsai.cost.tape import Tape, record
from torchbonsai.cost.timing import Arm, Times, in_turns, speed_ratio
from torchbonsai.graph.channel_graph import Bools, ChannelGraph, Selection
from torchbonsai.selection.budget import Budget, ceiling
from torchbonsai.selection.measures import Measure, Measures
from torchbonsai.surgery.settle import Settled

log = logging.getLogger("torchbonsai")
MET = 0.1
"""A latency budget is met within this part of what is measured."""
MOST_ROUNDS = 6
SECONDS = 0.5
"""Of timed passes, for each network and round."""


@dataclass(frozen=True)
class Clocked:
    """Both networks as measured in turns: medians in milliseconds, n rounds. rounds: selections that were measured.

    speed_up: the median over rounds. target_ms: what the budget allowed; None where it said nothing of time.
    """

    on: str
    device: str
    threads: int
    dense_ms: float
    small_ms: float
    speed_up: float
    n: int
    rounds: int
    target_ms: float | None

    @property
    def off(self) -> float:
        """How far from the target: 0.1 is 10 % slower."""
        return 0.0 if self.target_ms is None else self.small_ms / self.target_ms - 1

    def __str__(self) -> str:
        aim = "" if self.target_ms is None else f", {self.off:+.1%} off the {self.target_ms:.3g} ms allowed"
        again = f", after {self.rounds} selections that were measured" if self.rounds > 1 else ""
        return (
            f"{self.dense_ms:.3g} ms → {self.small_ms:.3g} ms ({self.speed_up:.2f}x){aim}; measured in turns on "
            f"{self.on}, {self.device}, {self.threads} thread(s), n = {self.n}{again}"
        )


@dataclass(frozen=True, eq=False)
class Candidate:
    """A selection that was cut and proved, and what the clock says of it."""

    settled: Settled
    kept: Bools
    selection: Selection
    clocked: Clocked | None = None


class Meters:
    """What one call of `tb.prune` needs to know of memory and time; makes nothing that its budget does not ask for."""

    def __init__(self, model: nn.Module, example_inputs: Any, budget: Budget) -> None:
        self.model, self.inputs, self.budget = model, example_inputs, budget
        self._tape: Tape | None = None
        self._graph: ChannelGraph | None = None
        self._models: dict[str, Measure] = {}
        self._clock: _Clock | None = None
        self._tried: list[Candidate] = []

    def of(self, graph: ChannelGraph) -> Measures | None:
        """Models and limits for selections of `graph`; None where the budget needs none."""
        if not self.budget.measured:
            return None
        if graph is not self._graph:
            self._graph, self._models = graph, self._made(graph)
        limits: dict[str, float] = {}
        for name in ("peak_bytes", "model_bytes"):
            amount = getattr(self.budget, name)
            if amount is not None:
                limits[name] = ceiling(amount, int(self._models[name].dense))
        if self._clock is None:
            return Measures(self._models, limits)
        if self._clock.target_ms is not None:
            limits["latency_ms"] = self._clock.target_ms
        return Measures(self._models, limits, self._clock.model)

    def judge(self, candidate: Candidate) -> Candidate | None:
        """The candidate to take, measured; None where another selection has to be tried. Raises BudgetError."""
        if self._clock is None:
            return candidate
        assert candidate.settled.small is not None
        clocked = self._clock.measured(candidate.settled.small, len(self._tried) + 1)
        candidate = Candidate(candidate.settled, candidate.kept, candidate.selection, clocked)
        if abs(clocked.off) <= MET or (clocked.off < 0 and self._held_by_others(candidate.kept)):
            return candidate
        repeated = any((c.kept == candidate.kept).all() for c in self._tried if c.kept.shape == candidate.kept.shape)
        self._tried.append(candidate)
        if not repeated and len(self._tried) < MOST_ROUNDS:
            self._clock.correct(candidate.kept, clocked)
            return None
        return self._best()

    def _held_by_others(self, kept: Bools) -> bool:
        """Whether it is another limit that made the selection so small, or nothing had to go at all."""
        assert self._clock is not None
        return bool(kept.all()) or not self._clock.binds(kept)

    def _best(self) -> Candidate:
        """The slowest of those that are quick enough. Widths go in steps, and so does time: it may be below by more."""
        quick = [c for c in self._tried if c.clocked is not None and c.clocked.off <= MET]
        if not quick:
            tried = "\n    ".join(str(c.clocked) for c in self._tried)
            raise BudgetError(
                message(
                    f"the network must be measured within {MET:.0%} of its latency budget",
                    f"after {len(self._tried)} selections, each corrected by the last:\n    {tried}",
                    "a busy machine, or time that is spent where no channel can be removed",
                    "measure on a quiet machine, allow more time, or look at bonsai measure and graph.explain()",
                )
            )
        return max(quick, key=lambda c: c.clocked.off if c.clocked else 0.0)

    def _made(self, graph: ChannelGraph) -> dict[str, Measure]:
        models: dict[str, Measure] = {}
        if self.budget.model_bytes is not None:
            models["model_bytes"] = BytesModel(graph, self.model)
        if self.budget.peak_bytes is not None or self.budget.on is not None:
            self._tape = self._tape or record(self.model, self.inputs)
        if self.budget.peak_bytes is not None:
            assert self._tape is not None
            models["peak_bytes"] = PeakModel(graph, self._tape)
        if self.budget.on is not None:
            assert self._tape is not None
            self._clock = self._clock or _Clock(self.model, self.inputs, self.budget)
            models["latency_ms"] = self._clock.of(graph, self._tape)
        return models


class _Clock:
    """The dense network under the budget's runtime, and the table of its layers."""

    def __init__(self, model: nn.Module, example_inputs: Any, budget: Budget) -> None:
        assert budget.on is not None
        self.budget, self.inputs = budget, example_inputs
        self.target: Target = parse_target(budget.on)
        self.threads = torch.get_num_threads()
        self.runtime = runtime_named(self.target.runtime)
        log.info("%s: timing the dense network", self.target)
        self.dense = self._arm(self.runtime.load(model, example_inputs, self.target))
        self.table = LayerTable(self.target, self.threads)
        times = in_turns([self.dense], seconds=SECONDS)[0]
        self.dense_ms, self.quickest_ms = times.median * 1e3, min(times.seconds) * 1e3
        self.model: LatencyModel | None = None

    @property
    def target_ms(self) -> float | None:
        """What the budget allows, where it says so."""
        if self.budget.latency is not None:
            return self.budget.latency * self.dense_ms
        return self.budget.latency_ms

    def of(self, graph: ChannelGraph, tape: Tape) -> LatencyModel:
        """The model of the latency of this graph's selections, with what was learnt from measured ones."""
        known = self.model.correction if self.model is not None else self.dense_ms / self.quickest_ms
        self.model = LatencyModel(graph, tape, self.table)
        self.model.calibrate(self.quickest_ms)  # the table holds the quickest runs too
        self.model.correction = known
        return self.model

    def measured(self, small: nn.Module, rounds: int) -> Clocked:
        """The small network beside the dense one."""
        log.info("%s: timing selection %d beside the dense network", self.target, rounds)
        arm = self._arm(self.runtime.load(small, self.inputs, self.target))
        dense, found = in_turns([self.dense, arm], seconds=SECONDS)
        return self._clocked(dense, found, rounds)

    def binds(self, kept: Bools) -> bool:
        """Is the selection about as slow as was allowed, by the prediction that it was made with?"""
        assert self.model is not None
        assert self.target_ms is not None
        return self.model.of(kept) > (1 - MET) * self.target_ms

    def correct(self, kept: Bools, clocked: Clocked) -> None:
        """A share is of what the dense network took at the time; milliseconds are milliseconds."""
        assert self.model is not None
        share = self.budget.latency is not None
        self.model.correct(kept, self.dense_ms / clocked.speed_up if share else clocked.small_ms)

    def _clocked(self, dense: Times, small: Times, rounds: int) -> Clocked:
        speed_up, dense_ms = speed_ratio(dense, small), dense.median * 1e3
        share = self.budget.latency
        # By the ratio within rounds, which a drift of the machine leaves alone.
        small_ms = dense_ms / speed_up if share is not None else small.median * 1e3
        allowed = self.budget.latency_ms if share is None else share * dense_ms
        chip = device_name(torch.device(self.target.device))
        n = len(small.seconds)
        return Clocked(str(self.target), chip, self.threads, dense_ms, small_ms, speed_up, n, rounds, allowed)

    def _arm(self, loaded: Loaded) -> Arm:
        return Arm(loaded.bind(self.inputs, self.threads), self.threads)
