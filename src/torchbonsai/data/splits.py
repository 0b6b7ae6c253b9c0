"""Typed splits, so that a function that may only see training images cannot be given another kind unnoticed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from torchbonsai.core.errors import DataError, message


@dataclass(frozen=True, eq=False)
class Split:
    """Images and classes. x: (n, c, h, w) uint8; y: (n,) int64."""

    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        fits = self.x.ndim == 4 and self.x.dtype == torch.uint8 and self.y.dtype == torch.int64
        if not fits or self.y.shape != self.x.shape[:1] or len(self.y) == 0:
            raise DataError(
                message(
                    "a split is uint8 images (n, c, h, w) and int64 classes (n,), n at least 1",
                    f"{self.x.dtype} {tuple(self.x.shape)} and {self.y.dtype} {tuple(self.y.shape)}",
                    "images normalised beforehand (the loop does it), or a limit that leaves nothing",
                    "give raw images",
                )
            )

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: torch.device | str) -> Self:
        """The same kind of split on another device."""
        return type(self)(self.x.to(device), self.y.to(device))


class TrainSplit(Split):
    """What weights are trained on, and what criteria score on."""


class ValSplit(Split):
    """What choices are made on."""


class TestSplit(Split):
    """What is read once, at the last epoch."""

    __test__ = False  # no test class, whatever pytest makes of the name


@dataclass(frozen=True, eq=False)
class Splits:
    """A data set. mean, std: a number a channel, of pixels in [0, 1]. source: where it is from, and its licence.

    unseen: only with `DataConfig.test_half`: what criteria score on instead of `train`, and nothing is trained on.
    """

    train: TrainSplit
    val: ValSplit
    test: TestSplit
    name: str
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    unseen: TrainSplit | None = None

    def __post_init__(self) -> None:
        shapes = {tuple(s.x.shape[1:]) for s in self.parts}
        highest = max(int(s.y.max()) for s in self.parts)
        lowest = min(int(s.y.min()) for s in self.parts)
        if len(shapes) != 1 or len(self.mean) != self.train.x.shape[1] or len(self.std) != len(self.mean):
            raise DataError(
                message(
                    "all splits must have one image shape, mean and std a number a channel",
                    f"shapes {sorted(shapes)}, {len(self.mean)} means, {len(self.std)} deviations",
                    "files of two data sets in one folder",
                    "get the files again",
                )
            )
        if lowest < 0 or highest >= self.classes:
            raise DataError(
                message(
                    f"classes must be numbered 0 to {self.classes - 1}",
                    f"{lowest} to {highest}",
                    "labels that start at 1, or a wrong number of classes",
                    "renumber them",
                )
            )

    @property
    def parts(self) -> tuple[Split, ...]:
        """All splits that there are: train, val, test, and unseen if there is one."""
        known = (self.train, self.val, self.test)
        return known if self.unseen is None else (*known, self.unseen)

    @property
    def in_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        c, h, w = self.train.x.shape[1:]
        return c, h, w

    def to(self, device: torch.device | str) -> Splits:
        """The same data on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("train", "val", "test")}
        return replace(self, **moved, unseen=None if self.unseen is None else self.unseen.to(device))
