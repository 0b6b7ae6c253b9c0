"""A loss under gates: `loss(model, batch)` with every atom multiplied by g wherever a contraction reads it.

Where a contraction has a weight of its own, its gate is W * g, which autograd follows anyway. Where it has none, the
activation that enters it is multiplied, and a dispatch mode cannot do that differentiably: it lies below autograd. So
where derivatives are asked for, the forward is run once without gradients onto a tape, which autograd then sees played.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from torchbonsai.core.errors import PruningError, message
from torchbonsai.graph.channel_graph import ChannelGraph
from torchbonsai.surgery.gates import GateActivations, GateSites, gate_sites, gated_weights
from torchbonsai.surgery.tape import Tape

Loss = Callable[[nn.Module, Any], Tensor]
Mode = TypeVar("Mode", bound=GateActivations)
Leave = Callable[[Mode, Any], Any]


class _Whole(nn.Module):
    """The loss as a module around the model, so that gates hold for all that it does with the model."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Any) -> Tensor:
        return self.loss(self.model, batch)


class GatedLoss:
    """`loss(model, batch)`, a scalar, under gates g (n_atoms,); twice differentiable in g where g wants a gradient.

    sites: of the gates; default: those of the traced eval pass. The gates are those of `surgery.gates`, so a gate of
    zero is what *masked* means everywhere else. Weights and buffers are replaced for one call by
    `torch.func.functional_call`: the model is not changed, and its parameters get no gradients. To be called inside
    `graph.forward.undisturbed`, in whatever mode the model is in.
    """

    def __init__(self, graph: ChannelGraph, model: nn.Module, loss: Loss, sites: GateSites | None = None) -> None:
        self.graph, self.model = graph, model
        self.sites = gate_sites(graph) if sites is None else sites
        self.whole = _Whole(model, loss)

    def __call__(self, batch: Any, g: Tensor) -> Tensor:
        """() One full forward; two where derivatives go through gates on activations.

        Raises PruningError where the loss never runs the model, is no scalar, or has no derivative though g wants one;
        PlanError where the forward takes another path than the trace did.
        """
        if not (g.requires_grad and torch.is_grad_enabled()):
            gates = partial(GateActivations, self.sites, g)
            return checked(self._within(batch, self.tensors(g), gates, lambda _, output: output), differentiable=False)
        if self.sites.activations:
            own, seen = self.parameters(), self.tensors(g)  # in the call, `seen` is what the model has
            loss = self._within(batch, seen, lambda: self.tape(own, seen, g), lambda tape, out: tape.play(g, out))
        else:
            own = {name: p.detach() for name, p in self.model.named_parameters()}
            loss = self._called(batch, own | self._buffers() | gated_weights(self.sites, own, g))
        return checked(loss, differentiable=True)

    def tensors(self, g: Tensor) -> dict[str, Tensor]:
        """What a pass at gates g finds in the place of the model's own, by name: gated weights, copies of buffers."""
        with torch.no_grad():
            return self._buffers() | gated_weights(self.sites, self.parameters(), g)

    def tape(self, own: dict[str, Tensor], seen: dict[str, Tensor], g: Tensor) -> Tape:
        """An empty tape for a pass that finds `tensors(g)`, as `seen`, in the place of `parameters()`."""
        tape = Tape(self.sites, g.detach())
        for name, (axis, atoms) in self.sites.weights.items():
            tape.weight(seen[name], own[name], axis, atoms)
        return tape

    def run(
        self, batch: Any, tensors: dict[str, Tensor], enter: Callable[[], None], leave: Callable[[Any], Any]
    ) -> Any:
        """The loss, unchecked, with these tensors in the place of the model's own.

        enter: called before every call of the model; leave: gets its output, and says what the loss sees of it. Raises
        PruningError where the loss never calls the model.
        """
        calls = 0

        def entered(*_: Any) -> None:
            nonlocal calls
            calls += 1
            enter()

        hooks = (  # the first and the last of all, as when the ops were counted
            self.model.register_forward_pre_hook(entered, prepend=True),
            self.model.register_forward_hook(lambda _module, _inputs, output: leave(output)),
        )
        try:
            loss = self._called(batch, tensors)
        finally:
            for hook in hooks:
                hook.remove()
        if not calls:
            raise _never_ran()
        return loss

    def _within(self, batch: Any, tensors: dict[str, Tensor], mode: Callable[[], Mode], leave: Leave[Mode]) -> Any:
        """The loss, each call of the model within a mode of its own and without gradients."""
        stack, modes = ExitStack(), []

        def enter() -> None:
            stack.enter_context(torch.no_grad())
            modes.append(stack.enter_context(mode()))

        def left(output: Any) -> Any:
            stack.close()
            modes[-1].finish()
            return leave(modes.pop(), output)

        with stack:
            return self.run(batch, tensors, enter, left)

    def _called(self, batch: Any, tensors: dict[str, Tensor]) -> Any:
        return torch.func.functional_call(self.whole, {f"model.{n}": t for n, t in tensors.items()}, (batch,))

    def parameters(self) -> dict[str, Tensor]:
        """The model's own, by all their names."""
        return dict(self.model.named_parameters(remove_duplicate=False))

    def _buffers(self) -> dict[str, Tensor]:
        return {name: b.detach().clone() for name, b in self.model.named_buffers()}


def checked(loss: Any, differentiable: bool) -> Tensor:
    """The loss, (). Raises PruningError where it is no scalar tensor, or should be differentiable and is not."""
    scalar = isinstance(loss, Tensor) and loss.numel() == 1
    if scalar and (loss.requires_grad or not differentiable):
        return cast(Tensor, loss).reshape(())
    got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
    raise PruningError(
        message(
            f"the loss must be a {'differentiable ' if differentiable else ''}scalar tensor",
            "one that no gate changes" if scalar else got,
            "reduction='none', or a loss that detaches, counts (accuracy), or holds a model of its own",
            "pass loss=callable(model, batch), and return a mean of what the model says",
        )
    )


def _never_ran() -> PruningError:
    return PruningError(
        message(
            "the loss must call the model it is given, so that its channels can be gated",
            "a loss that never ran it as a whole",
            "a loss that holds a model of its own, or calls model.forward or parts of the model",
            "write loss=lambda model, batch: …, and call model(…)",
        )
    )
