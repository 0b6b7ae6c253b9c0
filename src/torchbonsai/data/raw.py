"""What a reader of files returns, before validation is cut off."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from torchbonsai.core.errors import DataError, message

if TYPE_CHECKING:
    from torchbonsai.data.pictures import Images


@dataclass(frozen=True, eq=False)
class Raw:
    """Images (n, c, h, w) uint8 and classes (n,) int64. mean, std: fixed ones, else taken from the training images.

    Of folders of pictures, the images are `Pictures`, which are decoded once it is known which are wanted.
    """

    x_train: Images
    y_train: npt.NDArray[np.int64]
    x_test: Images
    y_test: npt.NDArray[np.int64]
    classes: int
    val_size: int
    source: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def find(folder: Path | None, subfolders: tuple[str, ...], names: tuple[str, ...], what: str, address: str) -> Path:
    """The first of `names` in `folder` or one of its `subfolders`.

    Raises DataError where there is none, with the official address and the option to set.
    """
    if folder is not None:
        for place in (folder, *(folder / s for s in subfolders)):
            for name in names:
                if (place / name).is_file():
                    return place / name
    raise DataError(
        message(
            f"{what} needs the file {' or '.join(names)}",
            "no folder was given" if folder is None else f"not in {folder}",
            "it was not downloaded or not unpacked, or the folder is another one",
            f"get it from {address} and name its folder with --data-dir (data_dir= in Python)",
        )
    )


def altered(path: Path, got: str, address: str) -> DataError:
    """The error for a file that is there but not what it should be."""
    return DataError(
        message(
            f"{path.name} must be the official file",
            f"{got} ({path})",
            "a broken download, or a file of another set under this name",
            f"get it again from {address}",
        )
    )
