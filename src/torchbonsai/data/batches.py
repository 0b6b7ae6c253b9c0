"""From uint8 images to what a model eats: normalised batches, and augmentation of a whole batch at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from torchbonsai.core.errors import ConfigError, message
from torchbonsai.data.splits import Split, Splits

Batch = tuple[Tensor, Tensor]
AUGMENTATIONS = ("crop", "flip", "cutout")


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

    crop: shift by up to an eighth of the size, black outside. flip: left-right, half of the images. cutout: a square
    of half the size, its centre anywhere, becomes the mean (DeVries, Taylor 2017).
    """
    if "crop" in augment:
        x = _crop(x, generator)
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
