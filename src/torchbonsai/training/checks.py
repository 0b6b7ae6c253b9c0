"""What must hold of a model before and while it is trained or evaluated."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from torchbonsai.core.errors import ConfigError, DataError, message
from torchbonsai.data.splits import Split


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that require a gradient, tied ones once; raises ConfigError where there is none."""
    found = [p for p in model.parameters() if p.requires_grad]
    if not found:
        raise ConfigError(
            message(
                "a model that is trained must have trainable parameters",
                f"{type(model).__name__}, none of whose {sum(1 for _ in model.parameters())} requires a gradient",
                "every parameter was frozen, or the factory returned a fixed function",
                "set requires_grad_(True), or do not train it",
            )
        )
    return found


def check_kind(split: Split, kind: type[Split], what: str) -> None:
    """Raises ConfigError unless `split` is of the kind that `what` may see."""
    if not isinstance(split, kind):
        raise ConfigError(
            message(
                f"{what} takes a {kind.__name__}",
                type(split).__name__,
                "the splits were confused: weights see train, choices see validation, test is read once",
                "give the right split",
            )
        )


def check_finite(model: nn.Module) -> None:
    """Raises DataError that names the first parameter or buffer with NaN or infinity."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise DataError(
                message(
                    "weights must be finite",
                    f"NaN or infinity in {name!r}",
                    "a training run that diverged, or a damaged checkpoint",
                    "start from other weights",
                )
            )


def check_logits(logits: object, samples: int, classes: int) -> Tensor:
    """`logits`; raises ConfigError unless it is one number a class for every image."""
    if isinstance(logits, Tensor) and logits.shape == (samples, classes):
        return logits
    got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    raise ConfigError(
        message(
            f"the model must give a tensor (n, {classes}) for n images of this data set",
            f"{got} for n = {samples}",
            "a model built for another number of classes or image size",
            "build it with this number of classes, or give it a fresh head",
        )
    )


def check_number(value: float, what: str) -> None:
    """Raises DataError where `value` is NaN or infinite."""
    if not math.isfinite(value):
        raise DataError(
            message(
                f"{what} must be finite",
                f"{value}",
                "a learning rate that is too high for this model, or weights that were not finite",
                "use a lower lr, a longer warm-up, or batch norm",
            )
        )
