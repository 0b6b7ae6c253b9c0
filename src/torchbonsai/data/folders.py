"""Folders of pictures, a folder a class: one's own with a train and a test part, and Caltech-101.

Only their names are read here: `data.pictures` makes squares of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from torchbonsai.core.errors import DataError, message
from torchbonsai.data.pictures import Pictures
from torchbonsai.data.raw import Raw

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"})
SIZE = 64
"""Side of the squares where nothing else is said."""
CALTECH, BACKGROUND, TRAINED = "101_ObjectCategories", "BACKGROUND_Google", 30
ADDRESS = "https://data.caltech.edu/records/mzrjq-6wc02"
TESTS = ("test", "val", "validation")

Files = list[tuple[Path, int]]
MIXED = 0
"""The seed of the pictures' order: a constant, so that folders give the same images everywhere."""


def read_folder(folder: Path | None, size: int | None, seed: int) -> Raw:
    """FOLDER/train/CLASS/*.jpg and FOLDER/test/CLASS/*.jpg (or val); classes in alphabetical order.

    A tenth of the training pictures is for validation. Raises DataError where a part is missing or empty, where both
    have other classes, or a file is no picture.
    """
    train, test = _part(folder, ("train",)), _part(folder, TESTS)
    classes = _classes(train)
    if _classes(test) != classes:
        odd = sorted(set(classes) ^ set(_classes(test)))
        raise _wrong("train and test must have the same classes", f"{odd[:5]} in one of them alone", train.parent)
    first, second = ([(p, k) for k, c in enumerate(classes) for p in _pictures(part / c)] for part in (train, test))
    source = f"pictures of your own in {train.parent.name}"
    return _raw(first, second, len(classes), max(1, len(first) // 10), source, size)


def read_caltech(folder: Path | None, size: int | None, seed: int) -> Raw:
    """Caltech-101: 30 pictures a class to train on, drawn by `seed`, the rest to test; without the background class.

    Five of the thirty are for validation. Raises DataError where the folder is missing, a class has no more than 30
    pictures, or a file is no picture.
    """
    root = _caltech_root(folder)
    classes = [c for c in _classes(root) if c != BACKGROUND]
    generator = np.random.Generator(np.random.PCG64(seed))
    train: Files = []
    test: Files = []
    for number, name in enumerate(classes):
        found = [(p, number) for p in _pictures(root / name)]
        if len(found) <= TRAINED:
            raise _wrong(f"a class needs more than {TRAINED} pictures", f"{len(found)} in {name}", root)
        order = generator.permutation(len(found))
        train += [found[i] for i in sorted(order[:TRAINED])]
        test += [found[i] for i in sorted(order[TRAINED:])]
    source = f"Caltech-101; Fei-Fei, Fergus, Perona 2004, {ADDRESS}"
    return _raw(train, test, len(classes), 5 * len(classes), source, size)


def _raw(train: Files, test: Files, classes: int, val_size: int, source: str, size: int | None) -> Raw:
    side = SIZE if size is None else size
    train, test = _mixed(train), _mixed(test)
    x_train, x_test = (Pictures(tuple(path for path, _ in files), side) for files in (train, test))
    y_train, y_test = (np.array([k for _, k in files], dtype=np.int64) for files in (train, test))
    return Raw(x_train, y_train, x_test, y_test, classes, val_size, source)


def _mixed(files: Files) -> Files:
    """In no order of classes: what takes the first or the last so many images, to score on, gets all classes."""
    return [files[i] for i in np.random.Generator(np.random.PCG64(MIXED)).permutation(len(files))]


def _classes(part: Path) -> list[str]:
    found = sorted(p.name for p in part.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(found) < 2:
        raise _wrong("a folder of pictures needs a folder a class, at least two", f"{len(found)} in {part.name}", part)
    return found


def _pictures(folder: Path) -> list[Path]:
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not found:
        raise _wrong("a class needs at least one picture", f"none in {folder.name}", folder)
    return found


def _part(folder: Path | None, names: Sequence[str]) -> Path:
    for name in names if folder is not None else ():
        if folder is not None and (folder / name).is_dir():
            return folder / name
    raise _wrong(f"a folder of pictures needs the folder {' or '.join(names)}", "none", folder)


def _caltech_root(folder: Path | None) -> Path:
    for root in () if folder is None else (folder, folder / CALTECH, folder / "caltech-101" / CALTECH):
        if root.name == CALTECH and root.is_dir():
            return root
    raise DataError(
        message(
            f"caltech101 needs the folder {CALTECH}",
            "no folder was given" if folder is None else f"not in {folder}",
            "the archive was not downloaded, or not unpacked",
            f"get it from {ADDRESS} and name its folder with --data-dir (data_dir= in Python)",
        )
    )


def _wrong(must: str, got: str, where: Path | None) -> DataError:
    cause = "another folder, or an archive that was not unpacked whole"
    return DataError(message(must, f"{got} ({where})", cause, "name the right folder with --data-dir"))
