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
    x_train, y_train = (_part(name, folder, f"train-{kind}") for kind in ("images-idx3", "labels-idx1"))
    x_test, y_test = (_part(name, folder, f"t10k-{kind}") for kind in ("images-idx3", "labels-idx1"))
    return Raw(
        x_train[:, None],
        y_train.astype(np.int64),
        x_test[:, None],
        y_test.astype(np.int64),
        10,
        VAL_SIZE,
        SOURCES[name],
    )


def _part(name: str, folder: Path | None, stem: str) -> npt.NDArray[np.uint8]:
    file = f"{stem}-ubyte"
    path = find(
        folder, (name, f"{name}/raw", "MNIST/raw", "FashionMNIST/raw"), (file, f"{file}.gz"), name, ADDRESSES[name]
    )
    array = read_idx(path, ADDRESSES[name])
    if "labels" in stem and array.max(initial=0) > 9:
        raise altered(path, f"a label {array.max()} above 9", ADDRESSES[name])
    return array


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
