"""The conformance suite of surgery: random cuts of one network, each against three references."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from torchbonsai.criteria.base import ScoringContext
from torchbonsai.criteria.random import Random
from torchbonsai.graph.blocks import Asked
from torchbonsai.graph.call import tensors_within
from torchbonsai.graph.channel_graph import Blocks, Bools, ChannelGraph
from torchbonsai.graph.forward import as_examples, undisturbed
from torchbonsai.graph.outputs import Narrow, narrowed
from torchbonsai.graph.trace import observe
from torchbonsai.pruning.controls import Wanted
from torchbonsai.pruning.prune import trace
from torchbonsai.selection.budget import Budget
from torchbonsai.selection.select import select
from torchbonsai.surgery.plan import PruningPlan
from torchbonsai.surgery.settle import Settler
from torchbonsai.surgery.verify import Verification, unrounded, verify
from torchbonsai.testing.references import cut_at_consumers, poisoned, relative_error

SHARES = (0.25, 0.5, 0.75)
Reference = Literal["hooks", "poison"]
_REFERENCES = {"hooks": cut_at_consumers, "poison": poisoned}
_MOST_ROUNDS = 200


@dataclass(frozen=True, eq=False)
class Cut:
    """One random cut. kept: (n_atoms,) of `graph`. removed: the share of its channels that had to go."""

    graph: ChannelGraph
    removed: float
    seed: int
    kept: Bools
    plan: PruningPlan
    small: nn.Module

    def verify(self, model: nn.Module, example_inputs: Any) -> Verification:
        """Against the masked reference; raises VerificationError."""
        return verify(self.graph, self.plan, self.kept, model, self.small, example_inputs)


def random_cuts(
    model: nn.Module,
    example_inputs: Any,
    shares: Sequence[float] = SHARES,
    seeds: Sequence[int] = range(5),
    prune_outputs: Narrow = False,
    blocks: Wanted = None,
) -> Iterator[Cut]:
    """Cuts that remove each share of the channels for each seed; even seeds globally, odd ones uniformly.

    One trace serves them all. The routing of each is proved; numbers are not compared.
    """
    graph = trace(model, example_inputs, prune_outputs=prune_outputs, blocks=blocks)

    def observed(hollow: bool, ways: Blocks) -> ChannelGraph:
        return observe(model, example_inputs, hollow, Asked(prune_outputs, ways))

    settler = Settler(model, example_inputs, graph, observed)
    for share in shares:
        for seed in seeds:
            cut = _cut(settler, graph, share, seed)
            graph = cut.graph
            yield cut


def _cut(settler: Settler, graph: ChannelGraph, share: float, seed: int) -> Cut:
    budget, scope = Budget(channels=1 - share), "uniform" if seed % 2 else "global"
    for _ in range(_MOST_ROUNDS):
        scores = ScoringContext(graph, settler.model).resolve(Random(seed))
        kept = graph.keep(select(graph, scores, budget, scope=scope))  # type: ignore[arg-type]
        settled = settler.settle(graph, kept)
        if settled.plan is not None and settled.small is not None:
            return Cut(settled.graph, share, seed, kept, settled.plan, settled.small)
        graph = settled.graph
    raise AssertionError(f"{_MOST_ROUNDS} selections were refused in a row")


def check_surgery(
    model: nn.Module,
    example_inputs: Any,
    *,
    shares: Sequence[float] = SHARES,
    seeds: Sequence[int] = range(5),
    tolerance: float = 1e-10,
    reference: Reference = "poison",
    prune_outputs: Narrow = False,
    blocks: Wanted = None,
) -> list[Cut]:
    """Hold random cuts of `model` to the promise: small == masked, by the gates and by a reference of another kind.

    Checked for each share of channels and each seed: the plan is exact; the relative error in float64, on the given
    weights and on randomised ones, is below `tolerance`, and so is, for the first seed, that against
    `testing.references` ("hooks" sees convolutions and linear layers only, "poison" all contractions); channels did go;
    the given model is as it was. Raises AssertionError that names the cut. Returns the cuts.
    """
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [m.training for m in model.modules()]
    cuts = list(random_cuts(model, example_inputs, shares, seeds, prune_outputs, blocks))
    for cut in cuts:
        said = f"{cut.removed:.0%} removed, seed {cut.seed}"
        assert not cut.kept.all(), f"{said}: nothing was removed"
        verification = cut.verify(model, example_inputs)
        assert verification.exact, f"{said}: {verification.reason}"
        error = verification.max_rel_error
        assert error is not None, f"{said}: not compared"
        assert error < tolerance, f"{said}: relative error {error:.1e} against the masked network"
        if cut.seed != seeds[0]:
            continue
        error = reference_error(model, cut.small, cut.plan, example_inputs, reference)
        assert error < tolerance, f"{said}: relative error {error:.1e} against the {reference} reference"
    assert [m.training for m in model.modules()] == flags, "training flags were changed"
    same = all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert same, "weights or buffers were changed"
    return cuts


def reference_error(
    model: nn.Module, small: nn.Module, plan: PruningPlan, example_inputs: Any, reference: Reference = "poison"
) -> float:
    """The relative error of `small` against a reference of `testing.references`: eval mode, float64, all examples."""
    dense, tiny = (copy.deepcopy(m).eval().double() for m in (model, small))
    tiny = unrounded(plan, dense, tiny, small)
    worst = 0.0
    for args, kwargs in as_examples(_double(example_inputs)):
        with undisturbed(dense):  # which keeps attention from its fast path, one op that hides its contractions
            got = tiny(*args, **kwargs)
            with _REFERENCES[reference](dense, plan) as cut:
                wanted = cut(*args, **kwargs)
        worst = max(worst, relative_error(tensors_within(got), narrowed(tensors_within(wanted), plan.outputs)))
    return worst


def _double(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, list | tuple):
        return type(value)(_double(v) for v in value)
    return {k: _double(v) for k, v in value.items()} if isinstance(value, dict) else value
