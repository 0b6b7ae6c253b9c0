"""From uint8 images to what a model eats: normalised batches, and augmentation of a whole batch at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from torchbonsai.core.errors import ConfigError, message
from torchbonsai.data.splits import Split, Splits

Batch = tuple[Tensor, Tensor]
AUGMENTATIONS = ("crop", "resized-crop", "flip", "cutout")
AREA, RATIO = (0.25, 1.0), (3 / 4, 4 / 3)
"""Of a resized crop: its share of the picture, and its width over its height."""


def normalise(x: Tensor, splits: Splits) -> Tensor:
    """uint8 (n, c, h, w) -> float32 of the same shape: x / 255, minus the mean, by the standard deviation."""
    scale = [1 / (255 * s) for s in splits.std]
    shift = [-m / s for m, s in zip(splits.mean, splits.std, strict=True)]
    factors = torch.tensor([scale, shift], dtype=torch.float32, device=x.device)[:, None, :, None, None]
    return torch.addcmul(factors[1], x.float(), factors[0])


def batches(split: Split, splits: Splits, *, batch_size: int = 128, limit: int | None = None) -> list[Batch]:
    """The first `limit` images (default: all) in order, as normalised (inputs, classes), e.g. to score on."""
    x, y = split.x[:limit], split.y[:limit]
    return [(normalise(a, splits), b) for a, b in zip(x.split(batch_size), y.split(batch_size), strict=True)]


def augmented(x: Tensor, splits: Splits, augment: Sequence[str], generator: torch.Generator) -> Tensor:
    """A normalised, augmented batch; every image draws its own numbers from the (CPU) `generator`.

    crop: shift by up to an eighth of the size, black outside. resized-crop: a part of a quarter to all of the area,
    somewhat stretched, scaled to the whole (Szegedy et al. 2015). flip: left-right, half of the images. cutout: a
    square of half the size, its centre anywhere, becomes the mean (DeVries, Taylor 2017).
    """
    if "crop" in augment:
        x = _crop(x, generator)
    if "resized-crop" in augment:
        x = _resized_crop(x, generator)
    if "flip" in augment:
        x = torch.where(_flags(x, generator), x.flip(3), x)
    x = normalise(x, splits)
    return _cutout(x, generator) if "cutout" in augment else x


def check_augment(augment: Sequence[str]) -> None:
    """Raises ConfigError unless every entry is known and there once."""
    if len(set(augment)) != len(augment) or not set(augment) <= set(AUGMENTATIONS):
        raise ConfigError(
            message(
                f"augment takes each of {', '.join(AUGMENTATIONS)} once", f"{tuple(augment)}", "-", "correct the list"
            )
        )


def _crop(x: Tensor, generator: torch.Generator) -> Tensor:
    n, _, h, w = x.shape
    rows, top = _window(n, h, generator)
    columns, left = _window(n, w, generator)
    padded = F.pad(x, (left, left, top, top))
    image = torch.arange(n)[:, None, None]
    picked = padded[image.to(x.device), :, rows[:, :, None].to(x.device), columns[:, None, :].to(x.device)]
    return picked.permute(0, 3, 1, 2).contiguous()


def _resized_crop(x: Tensor, generator: torch.Generator) -> Tensor:
    """(n, c, h, w) float32, values as in `x`: a part of every image, its own, scaled to the whole, bilinearly."""
    n = len(x)
    drawn = torch.rand(4, n, generator=generator)
    area = AREA[0] + (AREA[1] - AREA[0]) * drawn[0]
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    ratio = (low + (high - low) * drawn[1]).exp()
    wide, tall = ((area * r).sqrt().clamp(max=1) for r in (ratio, 1 / ratio))  # shares of the sides
    right, down = ((2 * p - 1) * (1 - side) for p, side in ((drawn[2], wide), (drawn[3], tall)))
    zero = torch.zeros(n)
    theta = torch.stack([wide, zero, right, zero, tall, down], 1).view(n, 2, 3).to(x.device)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)


def _window(n: int, size: int, generator: torch.Generator) -> tuple[Tensor, int]:
    """(n, size) the padded positions that each image sees, and the padding."""
    pad = -(-size // 8)
    return torch.randint(2 * pad + 1, (n, 1), generator=generator) + torch.arange(size), pad


def _flags(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(2, (len(x), 1, 1, 1), generator=generator).bool().to(x.device)


def _cutout(x: Tensor, generator: torch.Generator) -> Tensor:
    n, _, h, w = x.shape
    inside = _band(n, h, generator)[:, :, None] & _band(n, w, generator)[:, None, :]
    return x.masked_fill(inside[:, None].to(x.device), 0.0)


def _band(n: int, size: int, generator: torch.Generator) -> Tensor:
    """(n, size) bool: a run of half the size around a random centre, cut off at the border."""
    length = max(1, size // 2)
    start = torch.randint(size, (n, 1), generator=generator) - length // 2
    position = torch.arange(size)
    return (position >= start) & (position < start + length)
