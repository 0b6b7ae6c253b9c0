"""Folders of pictures on disk instead of in memory: the same bits, and a file that is not trusted blindly."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from torchbonsai.core.errors import DataError
from torchbonsai.data import DataConfig, Splits, load, on_disk, pictures
from torchbonsai.study.stages.images import digest_of

SIZES = {"train": 20, "test": 6}
PLAIN = {"name": "folder", "image_size": 8}
OTHERS = {"limited": {"limit_train": 9, "val_size": 5, "seed": 3}, "halves": {"test_half": True}}


def made(folder: Path) -> Path:
    """Two classes of 8x8 pictures, no two of them alike."""
    for part, count in SIZES.items():
        for number, name in enumerate("ab"):
            (folder / part / name).mkdir(parents=True)
            for k in range(count):
                values = np.arange(192) * (4 * k + 2 * number + 1) + len(part)
                Image.fromarray((values % 256).astype(np.uint8).reshape(8, 8, 3)).save(
                    folder / part / name / f"{k:02}.png"
                )
    return folder


class Place(NamedTuple):
    folder: Path
    cache: Path
    decoded: list[Path]

    def load(self, **settings: object) -> Splits:
        return load(DataConfig(data_dir=str(self.folder), **PLAIN | settings))  # type: ignore[arg-type]

    @property
    def files(self) -> list[Path]:
        return sorted((self.cache / "pictures").glob("*.uint8"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A folder of pictures none of which may stay in memory, and all pictures that were decoded since."""
    decoded: list[Path] = []
    monkeypatch.setattr(pictures, "square", counted(decoded))
    monkeypatch.setattr(pictures, "IN_MEMORY", 0)
    monkeypatch.setattr(pictures, "AT_ONCE", 5 * 192)  # several parts a split, the last one ragged
    monkeypatch.setenv("TORCHBONSAI_CACHE", str(tmp_path / "cache"))
    return Place(made(tmp_path / "pictures"), tmp_path / "cache", decoded)


def counted(decoded: list[Path]) -> Callable[..., np.ndarray]:
    square = pictures.square
    return lambda path, side: decoded.append(path) or square(path, side)


@pytest.mark.parametrize("settings", [{}, *OTHERS.values()], ids=["plain", *OTHERS])
def test_the_same_splits_as_in_memory(
    place: Place, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object]
) -> None:
    mapped = place.load(**settings)
    assert sum(f.stat().st_size for f in place.files) == sum(p.x.numel() for p in mapped.parts)
    assert len(place.decoded) == sum(map(len, mapped.parts)), "only those that a split has, and each once"
    monkeypatch.setattr(pictures, "IN_MEMORY", 40 * 192)
    held = place.load(**settings)
    assert (held.mean, held.std, held.source) == (mapped.mean, mapped.std, mapped.source)
    for a, b in zip(held.parts, mapped.parts, strict=True):
        assert type(a) is type(b)
        assert a.x.stride() == b.x.stride()
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.y, b.y)
    assert digest_of(held) == digest_of(mapped)


def test_digests_of_studies_that_were_begun_earlier(place: Place) -> None:
    known = {
        "plain": "38f1213bc5d98df7617dd65c666c4b96",
        "limited": "7dae0cccea9eac3b21ad2c740be6c187",
        "halves": "93100e334efdc31358e5faa80a137926",
    }
    found = {name: digest_of(place.load(**settings)) for name, settings in ({"plain": {}} | OTHERS).items()}
    assert found == known
    embedded = {digest_of(load(DataConfig())), digest_of(load(DataConfig(limit_train=100, val_size=50, image_size=9)))}
    assert embedded == {"4613b43f4edc49c80675499ccd007092", "57431f9cc365bcea2b3f03e156b8317d"}


def test_a_folder_below_the_threshold_writes_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "IN_MEMORY", 36 * 192)  # the training split, to the byte
    place.load()
    assert not place.cache.exists()
    monkeypatch.setattr(pictures, "IN_MEMORY", 36 * 192 - 1)
    assert len(place.load().train) == 36
    assert [f.stat().st_size for f in place.files] == [36 * 192]


def test_decoded_once_and_again_where_a_picture_changed(place: Place) -> None:
    first = place.load()
    place.decoded.clear()
    assert digest_of(place.load()) == digest_of(first)
    assert not place.decoded
    changed = place.folder / "test" / "b" / "00.png"
    Image.fromarray(np.full((8, 8, 3), 9, np.uint8)).save(changed)
    again = place.load()
    assert changed in place.decoded
    assert len(place.decoded) == len(again.test), "the other splits are as they were"
    assert [9] in [x.unique().tolist() for x in again.test.x[again.test.y == 1]]
    os.utime(changed, ns=(1, 1))
    place.decoded.clear()
    place.load()
    assert changed in place.decoded, "the same size, another time"
    place.decoded.clear()
    assert place.load(image_size=9).in_shape == (3, 9, 9)
    assert len(place.decoded) == 52


def test_a_file_that_is_cut_off_and_one_that_was_never_finished_are_made_anew(place: Place) -> None:
    first = place.load()
    digest = digest_of(first)
    victim = next(f for f in place.files if f.stat().st_size == 36 * 192)
    shutil.copy(victim, victim.with_name(f".{victim.name}.killed.part"))
    del first
    victim.unlink()
    victim.write_bytes(b"short")
    assert digest_of(place.load()) == digest
    assert not list(victim.parent.glob(".*.part"))


def test_of_two_that_want_it_one_decodes(place: Place) -> None:
    place.load(image_size=9)  # Python's warning filters are no affair of two threads
    place.decoded.clear()
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: place.load(), range(2))
    assert digest_of(one) == digest_of(two)
    assert len(place.decoded) == 52


def nothing_left(place: Place) -> bool:
    return not place.files and not list(place.cache.rglob("*.part"))


def test_a_full_disk(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    full = shutil.disk_usage(place.folder)._replace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr(on_disk.shutil, "disk_usage", lambda _: full)
        with pytest.raises(DataError, match=r"(?s)1e-06 GB free.*TORCHBONSAI_CACHE"):
            place.load()
    assert not place.decoded, "said before hours of decoding"

    def written(_: object, stop: int = 2) -> Iterator[np.ndarray]:
        yield from (np.zeros((1, 3, 8, 8), np.uint8) for _ in range(stop))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pictures.Pictures, "_squares", written)
    with pytest.raises(DataError, match=r"(?s)No space left.*TORCHBONSAI_CACHE"):
        place.load()
    assert nothing_left(place)


def test_a_place_that_cannot_be_written_to(place: Place) -> None:
    place.cache.write_text("a file, not a folder")
    with pytest.raises(DataError, match="TORCHBONSAI_CACHE"):
        place.load()


def test_a_file_that_is_no_picture_or_none_at_all(place: Place) -> None:
    wrong = place.folder / "train" / "a" / "10.png"
    wrong.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"10\.png"):
        place.load()
    assert nothing_left(place)
    wrong.unlink()
    wrong.symlink_to(place.folder / "nowhere.png")
    with pytest.raises(DataError, match=r"10\.png"):
        place.load()
