"""From uint8 images to what a model eats: normalised batches."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from torchbonsai.data.splits import Split, Splits

Batch = tuple[Tensor, Tensor]


def normalise(x: Tensor, splits: Splits) -> Tensor:
    """uint8 (n, c, h, w) -> float32 of the same shape: x / 255, minus the mean, by the standard deviation."""
    scale, shift = _factors(splits.mean, splits.std, x.device)
    return torch.addcmul(shift, x.float(), scale)


@lru_cache(maxsize=64)
def _factors(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """(1, c, 1, 1) scale and shift, moved to the device once and not at every step."""
    scale = [1 / (255 * s) for s in std]
    shift = [-m / s for m, s in zip(mean, std, strict=True)]
    with torch.inference_mode(False):  # it may first be asked for within inference mode, and then for training
        factors = torch.tensor([scale, shift], dtype=torch.float32, device=device)[:, None, :, None, None]
        return factors[0], factors[1]


def batches(split: Split, splits: Splits, *, batch_size: int = 128, limit: int | None = None) -> list[Batch]:
    """The first `limit` images (default: all) in order, as normalised (inputs, classes), e.g. to score on."""
    x, y = split.x[:limit], split.y[:limit]
    return [(normalise(a, splits), b) for a, b in zip(x.split(batch_size), y.split(batch_size), strict=True)]
