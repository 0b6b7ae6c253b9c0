"""Augmentation of a whole batch at once, on its device; the random numbers of an epoch are drawn beforehand, once.

So a step does no work on the host and moves nothing to the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from torchbonsai.core.errors import ConfigError, message
from torchbonsai.data.batches import normalise
from torchbonsai.data.splits import Splits

AUGMENTATIONS = ("crop", "flip", "cutout")


def check_augment(augment: Sequence[str]) -> None:
    """Raises ConfigError unless every entry is known and there once."""
    if len(set(augment)) != len(augment) or not set(augment) <= set(AUGMENTATIONS):
        raise ConfigError(
            message(
                f"augment takes each of {', '.join(AUGMENTATIONS)} once", f"{tuple(augment)}", "-", "correct the list"
            )
        )


def draw(sizes: Sequence[int], shape: Sequence[int], augment: Sequence[str], generator: torch.Generator) -> Tensor:
    """(k, n) int64, on the CPU: what `augmented` needs for batches of `sizes` images, n in all, of shape (…, h, w).

    The rows are the crop's top and left, the flip, and the cutout's centre, as far as they are asked for.
    """
    h, w = shape[-2:]
    limits = {"crop": (2 * _padding(h) + 1, 2 * _padding(w) + 1), "flip": (2,), "cutout": (h, w)}
    tops = [top for name in AUGMENTATIONS if name in augment for top in limits[name]]
    drawn = [torch.randint(top, (n,), generator=generator) for n in sizes for top in tops]
    rows = [torch.cat(drawn[row :: len(tops)]) for row in range(len(tops))]
    return torch.stack(rows) if rows else torch.empty(0, sum(sizes), dtype=torch.int64)


def augmented(x: Tensor, splits: Splits, augment: Sequence[str], drawn: Tensor) -> Tensor:
    """uint8 (n, c, h, w) -> a normalised, augmented float32 batch. drawn: (k, n) of `draw`, on the device of `x`.

    crop: shift by up to an eighth of the size, black outside. flip: left-right, half of the images. cutout: a square
    of half the size, its centre anywhere, becomes the mean (DeVries, Taylor 2017).
    """
    rows = iter(drawn)
    top, left = (next(rows), next(rows)) if "crop" in augment else (None, None)
    flip = next(rows).bool() if "flip" in augment else None
    if top is not None or flip is not None:
        x = _moved(x, top, left, flip)
    x = normalise(x, splits)
    return _cutout(x, next(rows), next(rows)) if "cutout" in augment else x


def _moved(x: Tensor, top: Tensor | None, left: Tensor | None, flip: Tensor | None) -> Tensor:
    """Crop and flip as one gather of pixels, so that each is read and written once."""
    n, c, h, w = x.shape
    high, wide = (_padding(h), _padding(w)) if top is not None else (0, 0)
    rows, columns = torch.arange(h, device=x.device), torch.arange(w, device=x.device).expand(n, w)
    if flip is not None:
        columns = torch.where(flip[:, None], w - 1 - columns, columns)
    if top is not None and left is not None:
        x = F.pad(x, (wide, wide, high, high))
        rows, columns = rows + top[:, None], columns + left[:, None]
    pixels = (rows.expand(n, h)[:, :, None] * (w + 2 * wide) + columns[:, None, :]).view(n, 1, h * w)
    return x.flatten(2).gather(2, pixels.expand(n, c, h * w)).view(n, c, h, w)


def _padding(size: int) -> int:
    return -(-size // 8)


def _cutout(x: Tensor, row: Tensor, column: Tensor) -> Tensor:
    inside = _band(row, x.shape[2])[:, :, None] & _band(column, x.shape[3])[:, None, :]
    return x.masked_fill(inside[:, None], 0.0)


def _band(centre: Tensor, size: int) -> Tensor:
    """(n, size) bool: a run of half the size around each centre, cut off at the border."""
    length = max(1, size // 2)
    start = (centre - length // 2)[:, None]
    position = torch.arange(size, device=centre.device)
    return (position >= start) & (position < start + length)
