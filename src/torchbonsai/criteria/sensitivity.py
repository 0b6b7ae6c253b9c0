"""The loss as a function of gates: one multiplier an atom, wherever a contraction reads it, all of them one.

At g = 0 an atom is removed; what its gate's derivatives at g = 1 say of that is what gradient criteria score. For a
plain weight W that reads channel c, ∂L/∂g[c] = Σ W[:, c] ∂L/∂W[:, c]; in a network of ReLUs it is also the derivative
with respect to a gate on the (norm's) output before the ReLU, since g ≥ 0 passes through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from torchbonsai.cost.evaluate import device_of
from torchbonsai.criteria.base import Scores, ScoringContext
from torchbonsai.criteria.reduce import by_group
from torchbonsai.criteria.tally import filled
from torchbonsai.graph.forward import draw_alike, undisturbed
from torchbonsai.surgery.gated import GatedLoss
from torchbonsai.surgery.gates import reached, sites_in

READER = "a reader inside the network"


class Sensitivity:
    """What a criterion asks of the context's loss under gates: its derivatives, batch by batch, and scores of them.

    train: in train mode (batch statistics), else in eval mode. loss: the scalar of (batch, g), inside `run`.
    """

    def __init__(self, context: ScoringContext, *, train: bool = False) -> None:
        self.context, self.train = context, train
        self.loss = GatedLoss(context.graph, context.model, context.loss, sites_in(context.graph, train))

    def gates(self) -> Tensor:
        """(n_atoms,) ones that want a gradient, on the model's device."""
        model = self.context.model
        wide = any(p.dtype == torch.float64 for p in model.parameters())
        dtype = torch.float64 if wide else torch.float32
        return torch.ones(self.context.graph.n_atoms, dtype=dtype, device=device_of(model), requires_grad=True)

    def each(self, function: Callable[[Any], Tensor]) -> list[tuple[float, Tensor]]:
        """(share of all samples, function(batch) as float64 on the CPU) for every batch.

        `function` runs in the right mode, and with random draws that leave no trace.
        """
        data = self.context.data()
        lengths = [self.context.length_of(batch) for batch in data]
        return [
            (length / sum(lengths), self.run(batch, function).detach().double().cpu())
            for length, batch in zip(lengths, data, strict=True)
        ]

    def run(self, batch: Any, function: Callable[[Any], Any], draw: int = 0) -> Any:
        """function(batch) in the right mode, with random draws that leave no trace: the same for the same `draw`."""
        model = self.context.model
        with undisturbed(model), _mode(model, self.train), torch.enable_grad():
            draw_alike(draw)
            return function(batch)

    def gradients(self) -> list[tuple[float, Tensor]]:
        """(share of all samples, ∂L/∂g (n_atoms,)) of each batch."""

        def gradient(batch: Any) -> Tensor:
            g = self.gates()
            return torch.autograd.grad(self.loss(batch, g), g)[0]

        return self.each(gradient)

    def scores(self, method: str, values: Tensor) -> Scores:
        """(n_atoms,) -> {group: (n atoms,)}. What no gate stands for (outputs that may lose channels) scores the mean.

        The groups concerned are named in a note, under the name of the method.
        """
        known = torch.from_numpy(reached(self.loss.sites, self.context.graph.n_atoms))
        return by_group(self.context.graph, filled(self.context, method, values, known, READER))


@contextmanager
def _mode(model: nn.Module, train: bool) -> Iterator[None]:
    flags = {module: module.training for module in model.modules()}
    model.train(train)
    try:
        yield
    finally:
        for module, training in flags.items():
            module.training = training
