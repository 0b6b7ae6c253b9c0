"""Which images are for what: validation from the training images, or, where those are all seen, from the test set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from torchbonsai.data.pictures import Images
from torchbonsai.data.raw import Raw
from torchbonsai.data.stratify import Ints, split_off

Labelled = tuple[Images, Ints]
"""Images and their classes."""

HALVES = 0
"""The seed of the test set's halves: a constant, so that no setting moves an image from one to the other."""


@dataclass(frozen=True, eq=False)
class Cut:
    """train: positions of the training images. told: what the source of the data must say about it."""

    train: Ints
    val: Labelled
    test: Labelled
    unseen: Labelled | None = None
    told: str = ""


def with_validation(raw: Raw, size: int, seed: int) -> Cut:
    """`size` training images, stratified, become the validation split; the test set is whole."""
    val, rest = split_off(raw.y_train, size, seed, "the validation split")
    return Cut(rest, (raw.x_train[val], raw.y_train[val]), (raw.x_test, raw.y_test))


def in_halves(raw: Raw) -> Cut:
    """All training images; half of the test set, halved again, to score and to choose on, the other half to test."""
    labels = raw.y_test
    half, rest = split_off(labels, len(labels) // 2, HALVES, "the half of the test set to score and choose on")
    first, second = split_off(labels[half], len(half) // 2, HALVES, "the half of it to score on")
    unseen, val = half[first], half[second]
    told = (
        f"choices on half of the test set, accuracy on the other half: {len(unseen)} of its images to score on, "
        f"{len(val)} to choose on, {len(rest)} to test; so that networks may have seen all training images"
    )
    x = raw.x_test
    return Cut(
        np.arange(len(raw.y_train)), (x[val], labels[val]), (x[rest], labels[rest]), (x[unseen], labels[unseen]), told
    )
