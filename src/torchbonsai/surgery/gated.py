"""A loss under gates: `loss(model, batch)` with every atom multiplied by g wherever a contraction reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from torchbonsai.core.errors import PruningError, message
from torchbonsai.graph.channel_graph import ChannelGraph
from torchbonsai.surgery.gates import GateActivations, gate_sites, gated_weights

Loss = Callable[[nn.Module, Any], Tensor]


class _Whole(nn.Module):
    """The loss as a module around the model, so that gates hold for all that it does with the model."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Any) -> Tensor:
        return self.loss(self.model, batch)


class GatedLoss:
    """`loss(model, batch)`, a scalar, under gates g (n_atoms,).

    The gates are those of `surgery.gates`, so a gate of zero is what *masked* means everywhere else. Weights are
    replaced for one call by `torch.func.functional_call`; the model is not changed. To be called inside
    `graph.forward.undisturbed`, in whatever mode the model is in.
    """

    def __init__(self, graph: ChannelGraph, model: nn.Module, loss: Loss) -> None:
        self.graph, self.model = graph, model
        self.sites = gate_sites(graph)
        self.whole = _Whole(model, loss)

    def __call__(self, batch: Any, g: Tensor) -> Tensor:
        """One full forward. Raises PruningError where the loss never runs the model or is no scalar."""
        stack, runs = ExitStack(), [0]

        def enter() -> None:
            runs[0] += 1
            stack.enter_context(GateActivations(self.sites, g))

        with stack, around_model(self.model, enter, stack.close):
            return checked_scalar(self.run(batch, self.weights(g)), runs[0])

    def weights(self, g: Tensor) -> dict[str, Tensor]:
        """W * g for every gated parameter, by the parameter's name."""
        return gated_weights(self.sites, dict(self.model.named_parameters(remove_duplicate=False)), g)

    def run(self, batch: Any, weights: dict[str, Tensor]) -> Tensor:
        """The loss with these weights in the place of the model's own."""
        replaced = {f"model.{name}": weight for name, weight in weights.items()}
        result: Tensor = torch.func.functional_call(self.whole, replaced, (batch,))
        return result


@contextmanager
def around_model(model: nn.Module, enter: Callable[[], None], leave: Callable[[], None]) -> Iterator[None]:
    """Call `enter` before and `leave` after every call of the model itself."""
    hooks = (
        model.register_forward_pre_hook(lambda *_: enter()),
        model.register_forward_hook(lambda *_: leave(), always_call=True),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def checked_scalar(loss: Any, runs: int) -> Tensor:
    """`loss` itself. Raises PruningError where it is no scalar tensor, or was made without running the model."""
    if not runs:
        raise PruningError(
            message(
                "the loss must call the model it is given, so that its channels can be masked",
                "a loss that never ran it",
                "a loss that holds a model of its own, or calls model.forward",
                "write loss=lambda model, batch: …, and call model(…)",
            )
        )
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise PruningError(
            message("the loss must be a scalar tensor", got, "a loss with reduction='none'", "return its mean")
        )
    return loss
