"""What a masked network's performance is measured by: the loss given, accuracy, or agreement with the network whole."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchbonsai.core.errors import PruningError, message
from torchbonsai.cost.evaluate import call
from torchbonsai.criteria.base import Loss, ScoringContext

Performance = Literal["loss", "accuracy", "agreement"]
PERFORMANCES = ("loss", "accuracy", "agreement")


def lost(performance: Performance, context: ScoringContext) -> Loss:
    """(model, batch) → (): minus that performance of a model on a batch of `context.data()`."""
    if performance == "loss":
        return context.loss
    return _Accuracy(context) if performance == "accuracy" else _Agreement(context)


class _Accuracy:
    """The share of `model(inputs).argmax(1)` that differs from batch[1]."""

    def __init__(self, context: ScoringContext) -> None:
        self.context = context

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        found = call(model, self.context.inputs_of(batch)).argmax(1)
        return 1 - (found == batch[1]).double().mean()


class _Agreement:
    """KL(p ‖ q) of the whole network's classes p and the model's q, each softmax(output, 1), in nats, a mean over
    images (and places, of outputs that have some). Labels are not looked at."""

    def __init__(self, context: ScoringContext) -> None:
        self.context = context
        with torch.no_grad():
            # by identity: a batch of the context's is what a masked forward gets, and the context keeps it alive
            self.whole = {id(b): _logits(call(context.model, context.inputs_of(b))) for b in context.data()}

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        p, q = self.whole[id(batch)], _logits(call(model, self.context.inputs_of(batch)))
        return F.kl_div(q, p, reduction="none", log_target=True).sum(1).mean()


def _logits(output: Any) -> Tensor:
    """log_softmax(output, 1). Raises PruningError where an output is no (N, classes, …) tensor."""
    if isinstance(output, Tensor) and output.is_floating_point() and output.ndim > 1 and output.shape[1] > 1:
        return output.log_softmax(1)
    got = f"{output.dtype} of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
    raise PruningError(
        message(
            "performance='agreement' compares classes: a model whose output is a float tensor (N, classes, …)",
            got,
            "a model that returns a dict or a tuple, one number an image, or classes instead of scores",
            "performance='loss' with a loss= of your own, against what the whole model gives",
        )
    )
