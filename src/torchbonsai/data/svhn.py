"""SVHN, the cropped digits, from its two MATLAB files."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from torchbonsai.data.raw import Raw, altered, find

ADDRESS = "http://ufldl.stanford.edu/housenumbers/"
FILES = {"train": "train_32x32.mat", "test": "test_32x32.mat"}
VAL_SIZE = 5000
SOURCE = f"SVHN, cropped digits; Netzer et al. 2011, {ADDRESS}; for non-commercial use"


def read(folder: Path | None) -> Raw:
    """The 73,257 training and 26,032 test digits; class 0 is the digit 0, which the files call 10.

    Raises DataError for a missing file, and for one that does not hold images and labels of this form.
    """
    return Raw(*_part(folder, FILES["train"]), *_part(folder, FILES["test"]), 10, VAL_SIZE, SOURCE)


def _part(folder: Path | None, name: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """(n, 3, 32, 32) images and (n,) classes of one file, which holds X (32, 32, 3, n) and y (n, 1), 1 to 10."""
    path = find(folder, ("svhn", "SVHN"), (name,), "svhn", ADDRESS)
    content = _loaded(path)
    x, y = content.get("X"), content.get("y")
    if not isinstance(x, np.ndarray) or not isinstance(y, np.ndarray):
        raise altered(path, f"no arrays X and y, but {sorted(k for k in content if not k.startswith('__'))}", ADDRESS)
    labels = y.reshape(-1).astype(np.int64)
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[:3] != (32, 32, 3) or x.shape[3] != len(labels):
        raise altered(path, f"images {x.dtype} {x.shape} for {len(labels)} labels", ADDRESS)
    if len(labels) == 0 or labels.min() < 1 or labels.max() > 10:
        raise altered(path, "labels that are not 1 to 10" if len(labels) else "no image", ADDRESS)
    return np.ascontiguousarray(x.transpose(3, 2, 0, 1)), labels % 10


def _loaded(path: Path) -> dict[str, object]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        return dict(loadmat(path))
    except (MatReadError, ValueError, TypeError, KeyError, EOFError, OSError, struct.error, zlib.error) as error:
        raise altered(path, f"no MATLAB file ({type(error).__name__}: {error})", ADDRESS) from error
