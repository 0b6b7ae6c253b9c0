"""CIFAR-10 and CIFAR-100 from their official python batches, MD5 checked first, pickles read by a strict reader."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from torchbonsai.data.raw import Raw, altered, find

MD5 = {
    "cifar10": {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
    "cifar100": {
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    },
}
ADDRESSES = {
    "cifar10": "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "cifar100": "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
}
FOLDERS = {"cifar10": ("cifar-10-batches-py", "cifar10"), "cifar100": ("cifar-100-python", "cifar100")}
LABELS = {"cifar10": (b"labels", 10), "cifar100": (b"fine_labels", 100)}
NAMES = tuple(MD5)
VAL_SIZE = 5000
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, as used for the published small ResNets, so that their weights can be read and go on as they are."""


def read(name: str, folder: Path | None) -> Raw:
    """CIFAR-10 or CIFAR-100. Raises DataError for a missing, truncated or altered file."""
    parts = {part: _part(name, folder, part) for part in MD5[name]}
    train = [v for part, v in parts.items() if not part.startswith("test")]
    test = next(v for part, v in parts.items() if part.startswith("test"))
    x, y = (np.concatenate(arrays) for arrays in zip(*train, strict=True))
    source = f"{name}, Krizhevsky 2009, {ADDRESSES[name]}; no licence stated"
    return Raw(x, y, *test, LABELS[name][1], VAL_SIZE, source, MEAN, STD)


def _part(name: str, folder: Path | None, part: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    address = ADDRESSES[name]
    path = find(folder, FOLDERS[name], (part,), name, address)
    raw = path.read_bytes()
    digest = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if digest != MD5[name][part]:
        raise altered(path, f"{len(raw)} bytes, MD5 {digest} for {MD5[name][part]}", address)
    batch = read_pickle(raw)
    images = np.asarray(batch[b"data"], dtype=np.uint8).reshape(-1, 3, 32, 32)
    return images, np.asarray(batch[LABELS[name][0]], dtype=np.int64)


class _Strict(pickle.Unpickler):
    """Admits what a batch holds (dict, list, str, bytes, int and numpy arrays) and no other class or function."""

    # numpy's own spelling of the function moved between versions; the array's reduction names the current one.
    ALLOWED = {  # noqa: RUF012
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a data file")
        return self.ALLOWED[module, name]


def read_pickle(raw: bytes) -> Any:
    """What a python-2 pickle of arrays, dicts, lists, bytes, str and int holds; str of python 2 come as bytes.

    Raises pickle.UnpicklingError for anything else.
    """
    return _Strict(io.BytesIO(raw), encoding="bytes").load()
