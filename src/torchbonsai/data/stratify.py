"""Seeded, stratified choices of images: every class in the same proportion, the same ones on every machine."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torchbonsai.core.errors import DataError, message

Ints = npt.NDArray[np.int64]


def split_off(labels: Ints, size: int, seed: int, name: str) -> tuple[Ints, Ints]:
    """(chosen, rest): `size` positions of `labels`, stratified, and the others; both ascending.

    Each class gives its share of `size`, rounded down; the places left go to the classes with the largest
    remainders (ties: the lower class first). Raises DataError where `size` is not within 1 … n - 1.
    """
    if not 1 <= size < len(labels):
        raise DataError(
            message(
                f"{name} must be 1 to {len(labels) - 1} images of the {len(labels)} there are",
                f"{size}",
                "a limit above the size of the data set, or 0",
                "give another number, or leave it out",
            )
        )
    generator = np.random.Generator(np.random.PCG64(seed))
    chosen = np.zeros(len(labels), dtype=bool)
    for cls, count in zip(*_counts(labels, size), strict=True):
        members = np.flatnonzero(labels == cls)
        chosen[generator.permutation(members)[:count]] = True
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)


def _counts(labels: Ints, size: int) -> tuple[Ints, Ints]:
    """The classes, and how many of each to choose."""
    classes, available = np.unique(labels, return_counts=True)
    shares = available * size
    counts = shares // len(labels)
    remainders = shares % len(labels)
    first = np.lexsort((classes, -remainders))[: size - int(counts.sum())]
    counts[first] += 1
    return classes, counts
