"""Pictures of all sizes as squares of one size: a list of files until it is known which of them a split is of.

The shorter side is scaled to the square's, the middle is cut out.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torchbonsai.core.config import cache_folder
from torchbonsai.core.errors import DataError
from torchbonsai.data.on_disk import mapped
from torchbonsai.data.raw import altered
from torchbonsai.data.stratify import Ints

IN_MEMORY = 1 << 30
"""Bytes that the pictures of one split may take in memory, decoded; more lie on disk."""
AT_ONCE = 1 << 23
"""Bytes that are decoded before they are written."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Files, and the side of the squares that they become. Indexing chooses files, and reads none."""

    files: tuple[Path, ...]
    side: int

    def __getitem__(self, rows: Ints) -> Pictures:
        return Pictures(tuple(self.files[row] for row in rows), self.side)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, channels, height, width) of the tensor."""
        return len(self.files), 3, self.side, self.side

    def tensor(self) -> Tensor:
        """(n, 3, side, side) uint8, in the order of the files; above IN_MEMORY bytes from a file, to be read only.

        That file lies in the cache (`core.config.cache_folder`), and its name is a hash of all that decides its
        content: names, sizes and times of the pictures, their order, the side, and Pillow's version. Raises DataError
        for a file that is no picture, and where there is no room on the disk.
        """
        if math.prod(self.shape) <= IN_MEMORY:
            return torch.from_numpy(np.concatenate(list(self._squares())))
        return mapped(cache_folder() / "pictures" / f"{self._identity()}.uint8", self.shape, self._squares)

    def _identity(self) -> str:
        import PIL

        digest = hashlib.sha256(repr((PIL.__version__, self.side)).encode())
        for path in self.files:
            digest.update(repr(_seen(path)).encode())
        return digest.hexdigest()[:32]

    def _squares(self) -> Iterator[npt.NDArray[np.uint8]]:
        """All pictures, some at a time, decoded by threads: Pillow leaves Python's lock meanwhile."""
        step = max(1, AT_ONCE // math.prod(self.shape[1:]))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(self.files), step):
                files = self.files[start : start + step]
                yield np.stack(list(pool.map(partial(square, side=self.side), files)))


Images = npt.NDArray[np.uint8] | Pictures
"""(n, c, h, w) in memory, or pictures that are not decoded yet."""


def square(path: Path, side: int) -> npt.NDArray[np.uint8]:
    """(3, side, side): the shorter side scaled, the middle cut out; grey pictures get three equal channels."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            fitted = ImageOps.fit(picture.convert("RGB"), (side, side), Image.Resampling.BILINEAR)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise _no_picture(path, error) from error
    return np.ascontiguousarray(np.asarray(fitted).transpose(2, 0, 1))


def _seen(path: Path) -> list[str | int]:
    """What is seen of a file from outside, and differs where its content does."""
    try:
        status = path.stat()
    except OSError as error:
        raise _no_picture(path, error) from error
    return [os.path.abspath(path), status.st_size, status.st_mtime_ns]


def _no_picture(path: Path, error: Exception) -> DataError:
    return altered(path, f"no picture ({type(error).__name__}: {error})", "where it came from")
