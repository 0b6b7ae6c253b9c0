"""Data in a stage's config: what it is, by content; where it lies is this machine's affair."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from torchbonsai.core.errors import DataError, message
from torchbonsai.data.batches import Batch, batches, normalise
from torchbonsai.data.load import DataConfig, load
from torchbonsai.data.splits import Splits, TrainSplit
from torchbonsai.study.fairness import Epoch
from torchbonsai.training.config import TrainConfig

BATCH = 128
"""Images that are scored at once."""


@dataclass(frozen=True)
class Images:
    """A data set in a config. config: without `data_dir`. digest: of all images, classes and moments."""

    config: DataConfig
    digest: str


def found(config: DataConfig) -> tuple[Images, Splits, dict[str, str]]:
    """The data set as a stage's config names it, its content, and {digest: folder} to find it again."""
    splits = _load(config)
    images = Images(replace(config, data_dir=None), digest_of(splits))
    # Absolute: workers may have another working directory.
    place = {} if config.data_dir is None else {images.digest: str(Path(config.data_dir).expanduser().resolve())}
    return images, splits, place


def opened(images: Images, places: Mapping[str, str]) -> Splits:
    """The data set's content. Raises DataError where it is no longer what the study began with."""
    splits = _load(replace(images.config, data_dir=places.get(images.digest)))
    if digest_of(splits) != images.digest:
        raise DataError(
            message(
                f"the data set {images.config.name} must be the one that the study began with",
                f"digest {digest_of(splits)}, not {images.digest}",
                "files that changed while the study ran",
                "put the files back, or start a fresh output folder",
            )
        )
    return splits


@lru_cache(maxsize=4)
def _load(config: DataConfig) -> Splits:
    return load(config)


@lru_cache(maxsize=4)
def digest_of(splits: Splits) -> str:
    """A hash of everything in the splits that can change a result."""
    digest = hashlib.sha256(repr((splits.classes, splits.mean, splits.std, splits.in_shape)).encode())
    for split in splits.parts:
        digest.update(repr(tuple(split.x.shape)).encode())
        for tensor in (split.x, split.y):
            raw: Any = tensor.contiguous().numpy()  # hashed where it is: images may be more than memory holds
            digest.update(raw)
    return digest.hexdigest()[:32]


def example(splits: Splits) -> Tensor:
    """(1, c, h, w) the first training image, normalised: what networks are traced, counted and timed on."""
    return normalise(splits.train.x[:1], splits)


def to_score_on(splits: Splits, limit: int, hold_out: int = 0) -> list[Batch]:
    """Batches of at most `limit` training images, and of no others: scores see train; if some are held out, those.
    hold_out is 0 beside unseen images.

    Where training images are no measure, since networks have seen them all: of the unseen ones instead. Where a single
    image would be left for the last batch, the batches are even: a batch norm cannot learn from one.
    """
    seen = scored(splits)
    part = TrainSplit(seen.x[-hold_out:], seen.y[-hold_out:]) if hold_out else seen
    count = min(limit, len(part))
    if count == 1 or count % BATCH != 1:
        return batches(part, splits, batch_size=BATCH, limit=limit)
    parts = count // BATCH + 1
    pairs = zip(part.x[:count].tensor_split(parts), part.y[:count].tensor_split(parts), strict=True)
    return [(normalise(x, splits), y) for x, y in pairs]


def scored(splits: Splits) -> TrainSplit:
    """What scores see: training images; where networks have seen these all, those that none has seen."""
    return splits.train if splits.unseen is None else splits.unseen


def without_held_out(splits: Splits, hold_out: int) -> Splits:
    """The data set without the last `hold_out` training images. Raises DataError where none is left."""
    if not hold_out:
        return splits
    count = max(0, len(splits.train) - hold_out)
    return replace(splits, train=TrainSplit(splits.train.x[:count], splits.train.y[:count]))


def epoch_of(splits: Splits, training: TrainConfig, hold_out: int = 0) -> Epoch:
    """One pass over the training split, less what is held out."""
    images = len(without_held_out(splits, hold_out).train)
    return Epoch(images, -(-images // training.batch_size))
