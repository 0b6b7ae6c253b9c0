"""Images that are more than memory should hold: a file of bytes, written once, mapped into memory, only read.

The tensor is like any other, and the system keeps of it in memory what is in use, once for all processes.
"""

from __future__ import annotations

import logging
import math
import shutil
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torchbonsai.core.config import atomically
from torchbonsai.core.errors import DataError, message

log = logging.getLogger("torchbonsai")
Parts = Callable[[], Iterable[npt.NDArray[np.uint8]]]


def mapped(path: Path, shape: Sequence[int], parts: Parts) -> Tensor:
    """The uint8 tensor of `shape` that `parts`, one after the other, are, from the file at `path`.

    Written where there is none of its size yet, by one process, while others that want it wait. The file's name must
    say what it holds. The tensor must not be written to: its memory is read-only. Raises DataError where the file
    cannot be written; what was begun is deleted then, and a write that was killed is begun anew.
    """
    if not _there(path, shape):
        try:
            _write(path, shape, parts)
        except OSError as error:
            raise _no_room(path, shape, str(error)) from error
    array = np.memmap(path, np.uint8, "r", shape=tuple(shape))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(array)


def _there(path: Path, shape: Sequence[int]) -> bool:
    return path.is_file() and path.stat().st_size == math.prod(shape)


def _write(path: Path, shape: Sequence[int], parts: Parts) -> None:
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if _there(path, shape):  # another process was first
            return
        for left in path.parent.glob(f".{path.name}.*.part"):  # by a process that was killed, since the lock is ours
            left.unlink()
        free = shutil.disk_usage(path.parent).free
        if free < math.prod(shape):
            raise _no_room(path, shape, f"{_size(free)} free")
        log.warning("%d images are decoded once, into %s (%s)", shape[0], path, _size(math.prod(shape)))
        with atomically(path) as stream:
            for part in parts():
                stream.write(np.ascontiguousarray(part).data)


def _size(count: int) -> str:
    return f"{count / 1e9:.3g} GB"


def _no_room(path: Path, shape: Sequence[int], got: str) -> DataError:
    return DataError(
        message(
            f"{shape[0]} images that are too many for memory need {_size(math.prod(shape))} on disk in {path.parent}",
            got,
            "a full disk, or a folder that may not be written to",
            "name a folder on another disk in the environment variable TORCHBONSAI_CACHE, or take fewer images "
            "(limit_train) or smaller ones (image_size)",
        )
    )
