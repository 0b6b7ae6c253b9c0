"""MNIST-style idx files, plain or gzipped: magic number, dimensions and length are checked before use."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from torchbonsai.data.raw import Raw, altered, find

UINT8 = 0x08
ADDRESSES = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/ (first published at http://yann.lecun.com/exdb/mnist/)",
    "fashion-mnist": "https://github.com/zalandoresearch/fashion-mnist",
}
SOURCES = {
    "mnist": "MNIST; LeCun, Cortes, Burges; http://yann.lecun.com/exdb/mnist/; commonly stated CC BY-SA 3.0",
    "fashion-mnist": "Fashion-MNIST; Zalando Research, https://github.com/zalandoresearch/fashion-mnist; MIT",
}
NAMES = tuple(ADDRESSES)
VAL_SIZE = 5000


def read(name: str, folder: Path | None) -> Raw:
    """MNIST or Fashion-MNIST from their four files, which bear the same names.

    Raises DataError for a missing, truncated or altered file.
    """
    x_train, y_train = _pair(name, folder, "train")
    x_test, y_test = _pair(name, folder, "t10k")
    return Raw(
        x_train[:, None],
        y_train.astype(np.int64),
        x_test[:, None],
        y_test.astype(np.int64),
        10,
        VAL_SIZE,
        SOURCES[name],
    )


def _pair(name: str, folder: Path | None, part: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Images and labels of one part, as many of the ones as of the others."""
    address = ADDRESSES[name]
    images = read_idx(_path(name, folder, f"{part}-images-idx3"), address)
    path = _path(name, folder, f"{part}-labels-idx1")
    labels = read_idx(path, address)
    if labels.max(initial=0) > 9:
        raise altered(path, f"a label {labels.max()} above 9", address)
    if (images.ndim, labels.ndim) != (3, 1) or len(images) != len(labels):
        raise altered(path, f"labels {labels.shape} for images {images.shape}", address)
    return images, labels


def _path(name: str, folder: Path | None, stem: str) -> Path:
    file = f"{stem}-ubyte"
    places = (name, f"{name}/raw", "MNIST/raw", "FashionMNIST/raw")
    return find(folder, places, (file, f"{file}.gz"), name, ADDRESSES[name])


def read_idx(path: Path, address: str = "where it came from") -> npt.NDArray[np.uint8]:
    """The array of one idx file of unsigned bytes. Raises DataError where it is not one, or not whole."""
    raw = _bytes(path, address)
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != UINT8 or raw[3] not in (1, 3):
        raise altered(path, f"magic number {raw[:4].hex() or 'missing'}", address)
    dims = raw[3]
    start = 4 + 4 * dims
    if len(raw) < start:
        raise altered(path, f"{len(raw)} bytes, too few for the dimensions", address)
    shape = struct.unpack(f">{dims}I", raw[4:start])
    expected = start + int(np.prod(shape, dtype=np.int64))
    if len(raw) != expected or 0 in shape:
        raise altered(path, f"{len(raw)} bytes for dimensions {shape}, which take {expected}", address)
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape).copy()


def _bytes(path: Path, address: str) -> bytes:
    raw = path.read_bytes()
    if path.suffix != ".gz":
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, OSError, zlib.error) as error:
        raise altered(path, f"a gzip error: {error}", address) from error
