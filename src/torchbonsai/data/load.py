"""Data sets by name: the embedded default, and the official files of CIFAR and of MNIST-style sets."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from torchbonsai.core.config import added_later
from torchbonsai.core.errors import ConfigError, DataError, message
from torchbonsai.data import cifar, fashion, folders, idx, svhn
from torchbonsai.data.cut import Labelled, in_halves, with_validation
from torchbonsai.data.pictures import Pictures
from torchbonsai.data.raw import Raw
from torchbonsai.data.splits import Splits, TestSplit, TrainSplit, ValSplit
from torchbonsai.data.stratify import split_off


@dataclass(frozen=True)
class DataConfig:
    """What decides the images that a run sees.

    name: see `names()`. data_dir: the folder with the official files, for sets that are not embedded. limit_train:
    train on so many images only (stratified). val_size: how many training images become the validation split; by
    default what suits the set. seed: which ones; it never changes the test split (but of caltech101, where it draws
    the training images). image_size: side of the squares that all images are scaled to; by default as they are, or 64
    for sets that come in many sizes. test_half: for networks that have seen all training images, so that none of these
    is held out: scores and choices get a fixed half of the test set (`Splits.unseen` and `val`, half of it each), and
    the other half is the test split; all training images may be trained on.
    """

    name: str = "fashion-target"
    data_dir: str | None = None
    limit_train: int | None = None
    val_size: int | None = None
    seed: int = 0
    image_size: int | None = None
    test_half: bool = added_later(False)


AT_ONCE = 1 << 20
"""Bytes of images whose moments are summed at a time, as integers of eight bytes."""
Reader = Callable[[Path | None], Raw]
Sized = Callable[[Path | None, int | None, int], Raw]
SIZED: dict[str, Sized] = {
    "caltech101": folders.read_caltech,
    "folder": folders.read_folder,
}
"""Sets of pictures of all sizes: read with the size that they are to have, and a seed."""

READERS: dict[str, Reader] = {
    **{name: partial(fashion.read, name) for name in fashion.NAMES},
    **{name: partial(cifar.read, name) for name in cifar.NAMES},
    **{name: partial(idx.read, name) for name in idx.NAMES},
    "svhn": svhn.read,
    **{name: lambda folder, read=read: read(folder, None, 0) for name, read in SIZED.items()},  # type: ignore[misc]
}


def names() -> tuple[str, ...]:
    """The names of the data sets, the embedded ones first."""
    return tuple(READERS)


def load(config: DataConfig) -> Splits:
    """The splits that `config` describes, on the CPU; the same ones on every machine.

    Validation is cut from the training images, stratified (with `test_half` from the test images, as is what is scored
    on); then `limit_train` is applied to what is left, so that runs with different limits share all else. Raises
    ConfigError for an unknown name, DataError where a file is missing, truncated or altered, or a size is impossible.
    """
    raw = _reader(config)(None if config.data_dir is None else Path(config.data_dir).expanduser())
    cut = in_halves(raw) if config.test_half else with_validation(raw, config.val_size or raw.val_size, config.seed)
    train, labels = cut.train, raw.y_train
    if config.limit_train is not None and config.limit_train != len(train):
        train = train[split_off(labels[train], config.limit_train, config.seed + 1, "limit_train")[0]]
    images, classes = _tensors((raw.x_train[train], labels[train]), config)
    mean, std = (raw.mean, raw.std) if raw.mean is not None and raw.std is not None else _moments(images)
    return Splits(
        TrainSplit(images, classes),
        ValSplit(*_tensors(cut.val, config)),
        TestSplit(*_tensors(cut.test, config)),
        config.name,
        raw.classes,
        mean,
        std,
        "; ".join(part for part in (raw.source, cut.told) if part),
        None if cut.unseen is None else TrainSplit(*_tensors(cut.unseen, config)),
    )


def _tensors(part: Labelled, config: DataConfig) -> tuple[Tensor, Tensor]:
    images, labels = part
    x = images.tensor() if isinstance(images, Pictures) else torch.from_numpy(scaled(images, config.image_size))
    return x, torch.from_numpy(labels)


def _reader(config: DataConfig) -> Reader:
    if config.name not in READERS:
        near = difflib.get_close_matches(config.name, READERS, n=3)
        raise ConfigError(
            message(
                f"a data set is one of {', '.join(READERS)}",
                repr(config.name),
                f"a typing error; near: {', '.join(near)}" if near else "a set that is not supported",
                "choose one of these",
            )
        )
    if config.name in fashion.NAMES and config.data_dir is not None:
        raise ConfigError(
            message(f"{config.name} is embedded and reads no folder", config.data_dir, "-", "leave the data folder out")
        )
    if config.val_size is not None and config.val_size < 1:
        raise DataError(message("the validation split needs at least 1 image", f"{config.val_size}", "-", "give more"))
    if config.val_size is not None and config.test_half:
        got = f"val_size={config.val_size} and test_half"
        cause = "test_half takes the validation split from the test set, half of its half"
        raise ConfigError(message("val_size is a number of training images", got, cause, "leave one of the two out"))
    if config.image_size is not None and not 1 <= config.image_size <= 4096:
        raise DataError(message("image_size must be 1 to 4096", f"{config.image_size}", "-", "give e.g. 64"))
    if config.name in SIZED:
        read = SIZED[config.name]
        return lambda folder: read(folder, config.image_size, config.seed)
    return READERS[config.name]


def scaled(images: np.ndarray, size: int | None) -> np.ndarray:
    """(n, c, h, w) uint8 -> (n, c, size, size), bilinear with antialiasing; as they are where they have that size."""
    if size is None or images.shape[2:] == (size, size):
        return images
    parts = [
        F.interpolate(torch.from_numpy(part).float(), (size, size), mode="bilinear", antialias=True)
        for part in np.array_split(images, max(1, len(images) // 1000))
    ]
    return torch.cat([part.round().clamp(0, 255).to(torch.uint8) for part in parts]).numpy()


def _moments(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation a channel, of pixels in [0, 1]; sums of integers, so the same on every machine."""
    sums = np.zeros((2, images.shape[1]), dtype=np.int64)  # of values, of their squares
    for part in images.split(max(1, AT_ONCE // images[0].numel())):
        values = part.transpose(0, 1).flatten(1).long()
        sums += torch.stack([values.sum(1), values.square().sum(1)]).numpy()
    mean, squares = sums / (images.numel() // images.shape[1])
    variance = squares - mean**2
    return tuple(float(m) / 255 for m in mean), tuple(max(float(v), 1.0) ** 0.5 / 255 for v in variance)
