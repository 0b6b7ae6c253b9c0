"""How much of the network's synaptic flow passes a channel.

Paper: Tanaka, Kunin, Yamins, Ganguli: Pruning Neural Networks without Any Data by Iteratively Conserving Synaptic Flow
(NeurIPS 2020, arXiv 2006.05467), for single weights.
Scores: a channel's share of the flow; with several rounds, when it leaves. Needs: weights, and the shape of the
example inputs.
Formula: R = the sum of the outputs for an input of ones, every weight replaced by its absolute value; flow[c] = (1 / R)
∂R/∂g[c] for a gate g (n,) wherever a contraction reads a channel, which is the sum of |w| ∂R/∂|w| over the weights that
read it (and, by conservation, over those that make it). In a chain the flows of every layer add up to one. Round k of
`rounds` gates the lowest channels to zero until n · down_to^(k / rounds) are left, none of them the last of its group;
score[c] = (k − 1 + the share of the channels leaving in that round whose flow is smaller) / rounds, the survivors as if
they left after the last. With rounds=1, score = flow.
Deviations: channels instead of weights. The paper prunes to one density; here one path goes down to `down_to`, and any
budget cuts it where it likes. In float64 on a copy. Norms with running statistics (batch norm) keep their |scale| over
deviation, which at initialisation is the identity, and lose mean and shift; whatever is added (biases) is zero, since
flow is a product of weights. The input is not 1 but 1e-100: R is linear in it, and so small a signal meets every
activation at zero, so that none saturates (ReLU6, sigmoid).
Known problems: a round costs a forward and a backward pass in float64. Norms with statistics of the input itself (layer
norm, group norm) subtract a mean: their flow has both signs, conserves nothing, and is refused. One ranking for all
layers (normalise=None) favours narrow layers, as in the paper. It knows nothing of the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from torchbonsai.core.errors import ConfigError, DataError, PruningError, message
from torchbonsai.cost.evaluate import device_of
from torchbonsai.criteria.base import Normalise, Scores, ScoringContext
from torchbonsai.criteria.batches import moved
from torchbonsai.criteria.options import whole
from torchbonsai.criteria.reduce import by_group
from torchbonsai.criteria.sensitivity import READER
from torchbonsai.criteria.tally import filled
from torchbonsai.graph.affine import affine
from torchbonsai.graph.call import map_tensors, tensors_within
from torchbonsai.graph.channel_graph import ChannelGraph
from torchbonsai.graph.forward import Example, alias_copy, as_examples, undisturbed
from torchbonsai.surgery.gated import GatedLoss
from torchbonsai.surgery.gates import reached, sites_of_pass

_SMALL = 1e-100


@dataclass(frozen=True)
class SynFlow:
    """Synaptic flow through a channel, in `rounds` that leave a share `down_to` of the channels in the end."""

    rounds: int = 100
    down_to: float = 0.01
    normalise: Normalise = None
    needs: ClassVar[frozenset[str]] = frozenset({"weights"})
    claims: ClassVar[frozenset[str]] = frozenset({"equivariant", "unread lowest"})

    def __post_init__(self) -> None:
        whole("rounds", self.rounds, 1)
        if not 0 < self.down_to < 1:
            must = "down_to must be a share between 0 and 1"
            raise ConfigError(message(must, repr(self.down_to), "a typing error", "SynFlow(rounds=100, down_to=0.01)"))

    def score(self, context: ScoringContext) -> Scores:
        """{group: (n atoms,) float64}, ≥ 0; with several rounds in [0, 1 + 1/rounds].

        Raises PruningError where the flow is not positive or not finite, DataError without inputs to take a shape from.
        """
        flow = _Flow(context)
        context.details["example_passes"] = 3 * (self.rounds + (self.rounds > 1))
        scores = flow.through(flow.open) if self.rounds == 1 else self._leaving(context.graph, flow)
        return by_group(context.graph, filled(context, "SynFlow", scores, flow.reached, READER))

    def _leaving(self, graph: ChannelGraph, flow: _Flow) -> Tensor:
        """(n_atoms,) when each channel leaves."""
        kept, scores = flow.open.bool(), torch.zeros(graph.n_atoms, dtype=torch.float64)
        for k in range(1, self.rounds + 1):
            now = flow.through(kept.double()).float()  # equal flows that differ in rounding are equal
            left = max(math.floor(graph.n_atoms * self.down_to ** (k / self.rounds) + 0.5), len(graph.groups))
            going = _lowest(graph, now, kept, int(kept.sum()) - left)
            scores[going] = (k - 1 + _place(now[going])) / self.rounds
            kept = kept & ~going
        scores[kept] = 1 + _place(flow.through(kept.double()).float()[kept]) / self.rounds
        return scores


class _Flow:
    """The network that flow is measured in: |weights|, nothing added, means of zero, in float64."""

    def __init__(self, context: ScoringContext) -> None:
        self.model: nn.Module = alias_copy(context.model).to(torch.float64).eval()
        device = device_of(context.model)
        self.open = torch.ones(context.graph.n_atoms, dtype=torch.float64)
        self.inputs: list[Any] = [_ones(moved(e, device)) for e in _examples(context)]
        parts = affine(context.graph)
        with undisturbed(context.model):
            for name, p in self.model.named_parameters(remove_duplicate=False):
                p.data = torch.zeros_like(p) if name in parts.added else p.abs()
            for name, b in self.model.named_buffers():
                if name in parts.means | parts.added:
                    b.zero_()
            sites = [sites_of_pass(context.graph, self.model, e) for e in self.inputs]
        self.totals = [GatedLoss(context.graph, self.model, _total, s) for s in sites]
        self.reached = torch.from_numpy(np.any([reached(s, context.graph.n_atoms) for s in sites], axis=0))

    def through(self, g: Tensor) -> Tensor:
        """(n_atoms,) float64 on the CPU, ≥ 0: each channel's share of the flow, where g (n_atoms,) lets it pass."""
        with undisturbed(self.model), torch.enable_grad():
            gate = g.to(device_of(self.model)).requires_grad_()
            total = torch.stack([of(e, gate) for of, e in zip(self.totals, self.inputs, strict=True)]).sum()
            if not total.requires_grad or not bool(total.isfinite()) or total <= 0:
                raise _no_flow(f"R = {total.item() / _SMALL:.3g}")
            (flow,) = torch.autograd.grad(total, gate)
        flow = (flow / total).detach().cpu()
        if not bool(flow.isfinite().all()) or bool((flow < -1e-9).any()):
            raise _no_flow(f"flows from {float(flow.min()):.3g} to {float(flow.max()):.3g} times R")
        return flow.clamp(min=0)


def _total(model: nn.Module, example: Example) -> Tensor:
    """The sum of all outputs."""
    out = tensors_within(model(*example[0], **example[1]))
    return torch.stack([t.sum().double() for t in out if t.is_floating_point()]).sum()


def _examples(context: ScoringContext) -> list[Example]:
    """The example inputs, else the first batch's."""
    if context.example_inputs is not None:
        return as_examples(context.example_inputs)
    if not context.batches:
        raise DataError(
            message(
                "SynFlow needs inputs, to know their shape",
                "neither example_inputs nor batches",
                "a ScoringContext made by hand",
                "ScoringContext(graph, model, example_inputs=…)",
            )
        )
    inputs = context.inputs_of(context.batches[0])
    return as_examples(inputs if not isinstance(inputs, list) else tuple(inputs))


def _ones(example: Any) -> Any:
    """Floating tensors full of one small number, others as they are."""
    return map_tensors(
        lambda t: torch.full(t.shape, _SMALL, dtype=torch.float64, device=t.device) if t.is_floating_point() else t,
        example,
    )


def _lowest(graph: ChannelGraph, flow: Tensor, kept: Tensor, count: int) -> Tensor:
    """(n_atoms,) bool: `count` of those kept, the smallest flows, but never a group's last channel."""
    going = torch.zeros_like(kept)
    left = np.bincount(graph.group_of_atom[kept.numpy()], minlength=len(graph.groups))
    for atom in flow.masked_fill(~kept, math.inf).argsort(stable=True).tolist()[: int(kept.sum())]:
        group = graph.group_of_atom[atom]
        if count > 0 and left[group] > 1:
            going[atom] = True
            left[group] -= 1
            count -= 1
    return going


def _place(flow: Tensor) -> Tensor:
    """(n,) in [0, 1): the share of the others that are smaller; equal ones alike."""
    return torch.searchsorted(flow.sort().values, flow).double() / max(len(flow), 1)


def _no_flow(got: str) -> PruningError:
    return PruningError(
        message(
            "synaptic flow must be positive and finite everywhere",
            got,
            "a norm that subtracts a mean of its input (layer norm, group norm), or a layer of zeros",
            "use another criterion, such as Magnitude() or SNIP()",
        )
    )
