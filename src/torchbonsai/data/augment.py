"""Augmentation of a whole batch at once, on its device; the random numbers of an epoch are drawn beforehand, once.

So a step does no work on the host and moves nothing to the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from torchbonsai.core.errors import ConfigError, message
from torchbonsai.data.batches import normalise
from torchbonsai.data.splits import Splits

AUGMENTATIONS = ("crop", "resized-crop", "flip", "cutout")
AREA, RATIO = (0.25, 1.0), (3 / 4, 4 / 3)
"""Of a resized crop: its share of the picture, and its width over its height."""
_FINE = 2**16
"""So many values has a number between 0 and 1 that is drawn."""


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

    The rows are the crop's top and left, the resized crop's area, ratio and place, the flip, and the cutout's centre,
    as far as they are asked for.
    """
    h, w = shape[-2:]
    crop = (2 * _padding(h) + 1, 2 * _padding(w) + 1)
    limits = {"crop": crop, "resized-crop": (_FINE,) * 4, "flip": (2,), "cutout": (h, w)}
    tops = [top for name in AUGMENTATIONS if name in augment for top in limits[name]]
    drawn = [torch.randint(top, (n,), generator=generator) for n in sizes for top in tops]
    rows = [torch.cat(drawn[row :: len(tops)]) for row in range(len(tops))]
    return torch.stack(rows) if rows else torch.empty(0, sum(sizes), dtype=torch.int64)


def augmented(x: Tensor, splits: Splits, augment: Sequence[str], drawn: Tensor) -> Tensor:
    """uint8 (n, c, h, w) -> a normalised, augmented float32 batch. drawn: (k, n) of `draw`, on the device of `x`.

    crop: shift by up to an eighth of the size, black outside. resized-crop: a part of a quarter to all of the area,
    somewhat stretched, scaled to the whole (Szegedy et al. 2015). flip: left-right, half of the images. cutout: a
    square of half the size, its centre anywhere, becomes the mean (DeVries, Taylor 2017).
    """
    rows = iter(drawn)
    top, left = (next(rows), next(rows)) if "crop" in augment else (None, None)
    part = torch.stack([next(rows) for _ in range(4)]) if "resized-crop" in augment else None
    flip = next(rows).bool() if "flip" in augment else None
    if top is not None or flip is not None:
        x = _moved(x, top, left, flip)
    if part is not None:
        x = _scaled_part(x, part)
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


def _scaled_part(x: Tensor, drawn: Tensor) -> Tensor:
    """(n, c, h, w) float32, values as in `x`: a part of every image, its own, scaled to the whole, bilinearly."""
    part = drawn.float() / _FINE
    area = AREA[0] + (AREA[1] - AREA[0]) * part[0]
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    ratio = (low + (high - low) * part[1]).exp()
    wide, tall = ((area * r).sqrt().clamp(max=1) for r in (ratio, 1 / ratio))  # shares of the sides
    right, down = ((2 * p - 1) * (1 - side) for p, side in ((part[2], wide), (part[3], tall)))
    zero = torch.zeros_like(wide)
    theta = torch.stack([wide, zero, right, zero, tall, down], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)


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
