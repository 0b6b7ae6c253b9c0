"""What a masked network's performance is measured by: the loss given, accuracy, or agreement with the network whole."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchbonsai.core.errors import ConfigError, DataError, PruningError, message
from torchbonsai.cost.evaluate import call
from torchbonsai.criteria.base import Loss, ScoringContext, form_of

Performance = Literal["loss", "accuracy", "agreement"]
PERFORMANCES = ("loss", "accuracy", "agreement")


def lost(performance: Performance, context: ScoringContext) -> Loss:
    """(model, batch) → (): minus that performance of a model on a batch of `context.data()`.

    Raises ConfigError where a loss was given that the performance would not look at.
    """
    if performance == "loss":
        return context.loss
    if context.has_own_loss:
        raise ConfigError(
            message(
                f"performance={performance!r} is measured without a loss",
                "loss=, which would be ignored",
                "a loss for another criterion, or for the default performance",
                "performance='loss', or leave loss= out",
            )
        )
    return _Accuracy(context) if performance == "accuracy" else _Agreement(context)


class _Accuracy:
    """The share of `model(inputs).argmax(1)` that differs from batch[1]: class numbers of the same shape.

    Raises DataError where a batch has none.
    """

    def __init__(self, context: ScoringContext) -> None:
        self.context = context
        self.seen: set[int] = set()  # by identity, as below: looked at once, and not at every mask

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        classes = _classes(batch)
        output = call(model, self.context.inputs_of(batch))
        found = output.argmax(1) if isinstance(output, Tensor) and output.ndim > 1 else None
        if found is None or found.shape != classes.shape:
            raise _no_accuracy(f"classes {tuple(classes.shape)} beside an output that is {form_of(output)}")
        if id(batch) not in self.seen:
            self.seen.add(id(batch))
            if not 0 <= int(classes.min()) <= int(classes.max()) < output.shape[1]:
                raise _no_accuracy(f"classes {int(classes.min())} to {int(classes.max())} of {output.shape[1]} outputs")
        return 1 - (found == classes).double().mean()


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


def _classes(batch: Any) -> Tensor:
    """The class numbers in a batch."""
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise _no_accuracy(f"a batch that is {form_of(batch)}")
    given = batch[1]
    whole = isinstance(given, Tensor) and not (given.is_floating_point() or given.is_complex())
    if not whole or given.dtype == torch.bool:
        raise _no_accuracy(f"batch[1] that is {form_of(given)}")
    return given


def _no_accuracy(got: str) -> DataError:
    return DataError(
        message(
            "performance='accuracy' compares model(inputs).argmax(1) with batch[1], the class numbers, (N,) integers",
            got,
            "batches without labels, labels as numbers, one-hot or soft, or a model that gives no classes",
            "performance='loss' with a loss= of your own, or 'agreement', which needs no labels",
        )
    )


def _logits(output: Any) -> Tensor:
    """log_softmax(output, 1). Raises PruningError where an output is no (N, classes, …) tensor."""
    if isinstance(output, Tensor) and output.is_floating_point() and output.ndim > 1 and output.shape[1] > 1:
        return output.log_softmax(1)
    raise PruningError(
        message(
            "performance='agreement' compares classes: a model whose output is a float tensor (N, classes, …)",
            form_of(output),
            "a model that returns a dict or a tuple, one number an image, or classes instead of scores",
            "performance='loss' with a loss= of your own, against what the whole model gives",
        )
    )
