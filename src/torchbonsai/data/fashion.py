"""The embedded default: 6,000 images of Fashion-MNIST (Zalando Research, MIT), by task.

Target task: the five garments for the upper body, which are hard to tell apart (t-shirt, pullover, dress, coat,
shirt); source of a pre-trained start: the other five. The file has 500 training and 100 test images a class; all
3,000 images of a task are pooled and split anew, because 500 test images could not tell two networks apart that
differ by less than 4 points (two standard errors at 70 %), 1,600 can from 2.3 on. 1,000 images to train keep a run
near two seconds and leave a task that a small network can fail at. 28x28 is averaged to 14x14 for the same reason;
the names with "-28" are not averaged. The source is as large as the target, so that a pre-trained start costs as much
as a trained one.
"""

from __future__ import annotations

import hashlib
import io
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt

from torchbonsai.core.errors import DataError, message
from torchbonsai.data.raw import Raw
from torchbonsai.data.stratify import split_off

FILE = "fashion_mnist_6k.npz"
SHA256 = "5de05f4efcbb2713f7dbeeb1ba7286288c73937220f24d8e0c5b9212aa3732cb"
SOURCE = "Fashion-MNIST, 6,000 of its images; Zalando Research, https://github.com/zalandoresearch/fashion-mnist; MIT"
TARGET = (0, 2, 3, 4, 6)
TASKS = {
    "fashion-target": TARGET,
    "fashion-source": tuple(c for c in range(10) if c not in TARGET),
    "fashion10": tuple(range(10)),
}
NAMES = (*TASKS, *(f"{task}-28" for task in TASKS))
TEST_PER_CLASS, VAL_PER_CLASS = 320, 80
_TEST_SEED = 0


def read(name: str, folder: Path | None) -> Raw:
    """The images of one task, classes renumbered from 0 in ascending order; `folder` is not used: it is embedded."""
    del folder
    task = name.removesuffix("-28")
    classes = TASKS[task]
    images, labels = _pool()
    members = np.isin(labels, classes)
    x, y = images[members], np.searchsorted(np.asarray(classes), labels[members])
    if task == name:
        x = halved(x)
    test, train = split_off(y, TEST_PER_CLASS * len(classes), _TEST_SEED, "the test split")
    x = np.ascontiguousarray(x[:, None])
    return Raw(x[train], y[train], x[test], y[test], len(classes), VAL_PER_CLASS * len(classes), SOURCE)


def halved(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """(n, 2h, 2w) -> (n, h, w): the mean of every 2x2 block, rounded half up."""
    n, h, w = images.shape
    sums = images.reshape(n, h // 2, 2, w // 2, 2).sum((2, 4), dtype=np.int64)
    return ((sums + 2) // 4).astype(np.uint8)


@cache
def _pool() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """All 6,000 images (n, 28, 28) and their classes, training images first."""
    raw = resources.files("torchbonsai.data").joinpath("embedded", FILE).read_bytes()
    if hashlib.sha256(raw).hexdigest() != SHA256:
        raise DataError(
            message(f"the embedded {FILE} must be as released", "another content", "a damaged install", "install again")
        )
    with np.load(io.BytesIO(raw)) as arrays:
        images = np.concatenate([arrays["x_train"], arrays["x_test"]])
        labels = np.concatenate([arrays["y_train"], arrays["y_test"]]).astype(np.int64)
    return images, labels
