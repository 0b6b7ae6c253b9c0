"""Reading calibration batches: once, in order, to the model's device, and refused where they hold NaN."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from torchbonsai.core.errors import DataError, message


def read_batches(batches: Iterable[Any], device: torch.device) -> list[Any]:
    """Every batch, its tensors on `device`. Raises DataError for NaN or infinity in one of them."""
    read = []
    for number, batch in enumerate(batches):
        for tensor in tensors_in(batch):
            check_finite(f"batch {number}", tensor, infinity_too=True)
        read.append(moved(batch, device))
    return read


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of a batch: of tuples, lists and dicts, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from tensors_in(entry)
    elif isinstance(value, tuple | list):
        for entry in value:
            yield from tensors_in(entry)


def moved(value: Any, device: torch.device) -> Any:
    """The same structure with its tensors on `device`; what is neither tensor, tuple, list nor dict as it is."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: moved(entry, device) for key, entry in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(moved(entry, device) for entry in value))
    if isinstance(value, tuple | list):
        return type(value)(moved(entry, device) for entry in value)
    return value


def inputs_of(batch: Any) -> Any:
    """The inputs in a batch: a Tensor or a dict is the inputs, of anything else its first entry."""
    return batch if isinstance(batch, Tensor | Mapping) else batch[0]


def length_of(batch: Any) -> int:
    """The first size of the first tensor. Raises DataError where there is none."""
    for tensor in tensors_in(batch):
        if tensor.ndim:
            return int(tensor.shape[0])
    raise DataError(
        message(
            "a batch needs a tensor whose first axis counts its samples",
            type(batch).__name__,
            "a loader that gives numpy arrays or Python lists of numbers",
            "collate into tensors",
        )
    )


def check_finite(name: str, tensor: Tensor, *, infinity_too: bool) -> None:
    """Raises DataError, naming `name`, for NaN (and infinity) in a floating tensor."""
    if tensor.is_meta or not (tensor.is_floating_point() or tensor.is_complex()):
        return
    if bool(tensor.sum().isfinite()):  # one pass and no copy; whatever is not finite makes the sum so too
        return
    bad = ~tensor.isfinite() if infinity_too else tensor.isnan()
    if bool(bad.any()):
        raise DataError(
            message(
                f"{name!r} must hold finite numbers" if infinity_too else f"{name!r} must not hold NaN",
                f"{int(bad.sum())} of {tensor.numel()} that are not",
                "a diverged training, a division by zero in the preparation of the data, or a damaged file",
                "train again from an earlier checkpoint, or mend the data",
            )
        )
