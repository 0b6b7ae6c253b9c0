"""SVHN, Caltech-101 and folders of pictures: small files in the same formats, and what can be wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from torchbonsai.core.errors import DataError
from torchbonsai.data import DataConfig, load
from torchbonsai.data.augment import augmented, draw
from torchbonsai.data.batches import normalise
from torchbonsai.data.load import scaled


def svhn_files(folder: Path, train: int = 40, test: int = 10) -> dict[str, np.ndarray]:
    """Both .mat files as the official ones are laid out; returns the training images as (n, 3, 32, 32)."""
    generator = np.random.default_rng(0)
    made = {}
    for name, n in (("train", train), ("test", test)):
        images = generator.integers(0, 256, (32, 32, 3, n), dtype=np.uint8)
        labels = (np.arange(n) % 10 + 1).astype(np.uint8)[:, None]  # 10 is the digit 0
        savemat(folder / f"{name}_32x32.mat", {"X": images, "y": labels}, do_compression=True)
        made[name] = images.transpose(3, 2, 0, 1)
    return made


def test_svhn(tmp_path: Path) -> None:
    made = svhn_files(tmp_path)
    splits = load(DataConfig("svhn", str(tmp_path), val_size=10))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (30, 10, 10)
    assert (splits.in_shape, splits.classes) == ((3, 32, 32), 10)
    assert torch.equal(splits.test.x, torch.from_numpy(made["test"].copy()))
    assert splits.test.y.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert "non-commercial" in splits.source


def test_svhn_that_is_not_svhn(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="ufldl"):
        load(DataConfig("svhn", str(tmp_path)))
    svhn_files(tmp_path)
    train = tmp_path / "train_32x32.mat"
    whole = train.read_bytes()
    for wrong in (whole[: len(whole) // 2], b"no MATLAB file", b""):
        train.write_bytes(wrong)
        with pytest.raises(DataError, match="train_32x32"):
            load(DataConfig("svhn", str(tmp_path), val_size=10))
    x, y = np.zeros((32, 32, 3, 4), np.uint8), np.ones((4, 1), np.uint8)
    for content in ({"X": x}, {"X": x, "y": y[:3]}, {"X": x.astype(float), "y": y}, {"X": x, "y": y * 11}):
        savemat(train, content)
        with pytest.raises(DataError, match="train_32x32"):
            load(DataConfig("svhn", str(tmp_path), val_size=2))


def picture(path: Path, size: tuple[int, int], colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def caltech(tmp_path: Path) -> Path:
    """Three classes of 33, 35 and 31 pictures of several sizes, one of them grey, and the background class."""
    root = tmp_path / "101_ObjectCategories"
    for number, (name, count) in enumerate((("anchor", 33), ("brain", 35), ("cup", 31), ("BACKGROUND_Google", 40))):
        for k in range(count):
            picture(root / name / f"image_{k:04}.jpg", (30 + k, 40), (80 * number, 7 * k, 10))
    Image.new("L", (50, 30), 128).save(root / "anchor" / "image_0000.jpg")
    return tmp_path


def test_caltech_takes_thirty_a_class_and_no_background(caltech: Path) -> None:
    splits = load(DataConfig("caltech101", str(caltech), image_size=24))
    assert (splits.classes, splits.in_shape) == (3, (3, 24, 24))
    both = torch.cat([splits.train.y, splits.val.y])
    assert torch.bincount(both).tolist() == [30, 30, 30]
    assert len(splits.val) == 15
    assert torch.bincount(splits.test.y).tolist() == [3, 5, 1]
    again = load(DataConfig("caltech101", str(caltech / "101_ObjectCategories"), image_size=24))
    assert torch.equal(again.train.x, splits.train.x)
    other = load(DataConfig("caltech101", str(caltech), image_size=24, seed=1))
    assert not torch.equal(other.test.x, splits.test.x), "another seed, other pictures"


def test_pictures_are_in_no_order_of_classes(caltech: Path) -> None:
    splits = load(DataConfig("caltech101", str(caltech), image_size=8))
    for split in (splits.train, splits.test):
        assert split.y.tolist() != sorted(split.y.tolist())
    for some in (splits.train.y[:20], splits.train.y[-20:]):
        assert set(some.tolist()) == {0, 1, 2}, "the first and the last, which are scored on and held out"


def test_caltech_that_is_incomplete(caltech: Path) -> None:
    with pytest.raises(DataError, match="101_ObjectCategories"):
        load(DataConfig("caltech101", str(caltech / "elsewhere")))
    (caltech / "101_ObjectCategories" / "cup" / "image_0003.jpg").unlink()
    with pytest.raises(DataError, match="30 in cup"):
        load(DataConfig("caltech101", str(caltech), image_size=8))


def test_a_folder_of_one_s_own(tmp_path: Path) -> None:
    for part, count in (("train", 10), ("val", 3)):
        for number, name in enumerate(("cat", "dog")):
            for k in range(count):
                picture(tmp_path / part / name / f"{k}.png", (20, 12), (200 * number, 0, 100))
    splits = load(DataConfig("folder", str(tmp_path), image_size=12))
    assert (len(splits.train), len(splits.val), len(splits.test), splits.classes) == (18, 2, 6, 2)
    dogs = splits.test.x[splits.test.y == 1]
    assert dogs[:, 0].unique().tolist() == [200]
    assert load(DataConfig("folder", str(tmp_path))).in_shape == (3, 64, 64)

    (tmp_path / "train" / "cat" / "0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"0\.png"):
        load(DataConfig("folder", str(tmp_path)))
    (tmp_path / "train" / "owl").mkdir()
    with pytest.raises(DataError, match="owl"):
        load(DataConfig("folder", str(tmp_path)))


def test_the_middle_is_cut_out_of_the_scaled_picture(tmp_path: Path) -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255  # the middle third is white
    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            for k in range(2):
                Image.fromarray(wide).save(tmp_path / part / name / f"{k}.png")
    splits = load(DataConfig("folder", str(tmp_path), image_size=20, val_size=2))
    assert splits.test.x[0, :, :, 3:17].min() == 255


def test_any_set_can_be_scaled() -> None:
    plain, large = load(DataConfig(limit_train=8)), load(DataConfig(limit_train=8, image_size=28))
    assert large.in_shape == (1, 28, 28)
    assert torch.equal(large.train.y, plain.train.y)
    assert abs(large.test.x.float().mean() - plain.test.x.float().mean()) < 2
    flat = np.full((3, 1, 6, 6), 77, np.uint8)
    assert (scaled(flat, 9) == 77).all()
    with pytest.raises(DataError, match="image_size"):
        load(DataConfig(image_size=0))


def test_a_resized_crop_is_a_part_of_the_picture_scaled() -> None:
    splits = load(DataConfig(limit_train=8))
    ramp = torch.arange(14, dtype=torch.uint8).mul(10).expand(1, 14, 14)
    x = torch.stack([ramp] * 64)
    drawn = draw((64,), x.shape, ("resized-crop",), torch.Generator().manual_seed(0))
    out = augmented(x, splits, ("resized-crop",), drawn)
    assert out.shape == x.shape
    rows = (out - normalise(torch.zeros_like(x), splits)) * splits.std[0] * 255
    assert (rows.diff(dim=3) > -1e-3).all(), "columns stay in order"
    assert torch.allclose(rows, rows[:, :, :1].expand_as(rows), atol=1e-2), "and rows are alike"
    slopes = (rows[:, 0, 0, 9] - rows[:, 0, 0, 4]) / 50
    assert 0.4 < slopes.min() < 0.75 < slopes.max() < 1.2, "from half of the width to a little more than all of it"
    assert slopes.unique().numel() > 60, "every image its own"
