"""Official files: what is read, and every way in which a file can be wrong."""

from __future__ import annotations

import gzip
import hashlib
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from torchbonsai.core.errors import DataError
from torchbonsai.data import DataConfig, cifar, idx, load

FILES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def mnist_like(tmp_path: Path) -> Path:
    """Four small files in MNIST's format: 6,000 training images of 3x5, gzipped, and 20 test images, plain."""
    generator = np.random.default_rng(0)
    for stem, n in (("train", 6000), ("t10k", 20)):
        images = generator.integers(0, 256, (n, 3, 5), dtype=np.uint8)
        labels = (np.arange(n) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            raw = idx_bytes(array)
            if stem == "train":
                (tmp_path / f"{stem}-{kind}-ubyte.gz").write_bytes(gzip.compress(raw, 1))
            else:
                (tmp_path / f"{stem}-{kind}-ubyte").write_bytes(raw)
    return tmp_path


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_idx_plain_and_gzipped(mnist_like: Path, name: str) -> None:
    splits = load(DataConfig(name, str(mnist_like)))
    assert splits.in_shape == (1, 3, 5)
    assert (len(splits.train), len(splits.val), len(splits.test), splits.classes) == (1000, 5000, 20, 10)
    expected = idx.read_idx(mnist_like / "t10k-images-idx3-ubyte")
    assert torch.equal(splits.test.x[:, 0], torch.from_numpy(expected))
    assert splits.test.y.tolist() == [i % 10 for i in range(20)]


def test_idx_in_the_usual_subfolder(mnist_like: Path) -> None:
    folder = mnist_like / "root" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for file in mnist_like.glob("*ubyte*"):
        file.rename(folder / file.name)
    assert len(load(DataConfig("mnist", str(mnist_like / "root"))).test) == 20


def test_a_missing_file_is_said_with_its_address_and_the_option(tmp_path: Path) -> None:
    for name, file in (("cifar10", "data_batch_1"), ("cifar100", "train"), ("mnist", "train-images-idx3-ubyte")):
        for folder in (None, str(tmp_path)):
            with pytest.raises(DataError) as caught:
                load(DataConfig(name, folder))
            assert file in str(caught.value)
            assert "https://" in str(caught.value)
            assert "--data-dir" in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[:-1],
        lambda raw: raw + b"\0",
        lambda raw: raw[:10],
        lambda raw: raw[:3],
        lambda raw: b"",
        lambda raw: b"\0\0\x0b" + raw[3:],
        lambda raw: raw[:4] + struct.pack(">I", 21) + raw[8:],
        lambda raw: raw[:4] + struct.pack(">I", 0) + raw[8:16],
    ],
)
def test_damaged_idx(mnist_like: Path, damage) -> None:
    file = mnist_like / "t10k-images-idx3-ubyte"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte"):
        load(DataConfig("mnist", str(mnist_like)))


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[: len(raw) // 2], lambda raw: raw[:-8] + bytes(8), lambda raw: b"no gzip"]
)
def test_damaged_gzip(mnist_like: Path, damage) -> None:
    file = mnist_like / "train-images-idx3-ubyte.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match="gzip"):
        load(DataConfig("mnist", str(mnist_like)))


def test_more_labels_than_images_and_labels_out_of_range(mnist_like: Path) -> None:
    file = mnist_like / "t10k-labels-idx1-ubyte"
    file.write_bytes(idx_bytes(np.zeros(21, dtype=np.uint8)))
    with pytest.raises(DataError):
        load(DataConfig("mnist", str(mnist_like)))
    file.write_bytes(idx_bytes(np.full(20, 10, dtype=np.uint8)))
    with pytest.raises(DataError, match="above 9"):
        load(DataConfig("mnist", str(mnist_like)))


def test_fewer_labels_than_images_are_never_paired_up(mnist_like: Path) -> None:
    """A whole file of its own, one label short: every image after the gap would have its neighbour's class."""
    file = next(mnist_like.glob("train-labels-idx1-ubyte*"))
    raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    file.unlink()
    labels = np.frombuffer(raw, np.uint8, offset=8)
    (mnist_like / "train-labels-idx1-ubyte").write_bytes(idx_bytes(labels[1:]))
    with pytest.raises(DataError, match="train-labels-idx1-ubyte"):
        load(DataConfig("mnist", str(mnist_like)))


def test_the_unpickler_reads_what_a_batch_holds() -> None:
    batch = {b"data": np.arange(6, dtype=np.uint8).reshape(2, 3), b"labels": [1, 2], b"batch_label": b"one"}
    found = cifar.read_pickle(pickle.dumps(batch, protocol=3))
    assert found[b"labels"] == [1, 2]
    assert np.array_equal(found[b"data"], batch[b"data"])


@pytest.mark.parametrize("callee", [os.system, eval, print, Path, np.load])
def test_the_unpickler_admits_no_other_function(callee) -> None:
    class Harmful:
        def __reduce__(self):
            return callee, ("1",)

    with pytest.raises(pickle.UnpicklingError, match="not allowed"):
        cifar.read_pickle(pickle.dumps({b"data": Harmful()}, protocol=2))


def test_an_altered_batch_is_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "read_pickle", lambda raw: pytest.fail("read before it was checked"))
    (tmp_path / "data_batch_1").write_bytes(b"altered")
    with pytest.raises(DataError, match="MD5"):
        load(DataConfig("cifar10", str(tmp_path)))


def test_cifar_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches in the official format, their own MD5s in place of the official ones."""
    generator, sums, pixels = np.random.default_rng(0), {}, {}
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for part in cifar.MD5["cifar10"]:
        pixels[part] = generator.integers(0, 256, (1100, 3072), dtype=np.uint8)
        raw = pickle.dumps({b"data": pixels[part], b"labels": [i % 10 for i in range(1100)]}, protocol=3)
        (folder / part).write_bytes(raw)
        sums[part] = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    monkeypatch.setitem(cifar.MD5, "cifar10", sums)
    splits = load(DataConfig("cifar10", str(tmp_path)))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (500, 5000, 1100)
    assert torch.equal(splits.test.x[7, 2, 1], torch.from_numpy(pixels["test_batch"][7, 2048 + 32 : 2048 + 64]))


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = os.environ.get("TORCHBONSAI_DATA")
    if not folder:
        pytest.skip("TORCHBONSAI_DATA is not set: the real CIFAR and MNIST are not here")
    out = tmp_path_factory.mktemp("cifar10")
    subprocess.run(
        [sys.executable, str(Path(folder, "restore.py")), "cifar10", str(out)], check=True, capture_output=True
    )
    return out


@pytest.mark.slow
def test_real_cifar10(real: Path) -> None:
    splits = load(DataConfig("cifar10", str(real), limit_train=5000))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (5000, 5000, 10_000)
    assert torch.bincount(splits.test.y).tolist() == [1000] * 10
    assert torch.bincount(splits.train.y).tolist() == [500] * 10
    assert splits.test.y[:5].tolist() == [3, 8, 8, 0, 6]  # cat, ship, ship, airplane, frog


@pytest.mark.slow
def test_real_mnist(real: Path) -> None:
    splits = load(DataConfig("mnist", str(Path(os.environ["TORCHBONSAI_DATA"], "mnist"))))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (55_000, 5000, 10_000)
    assert splits.test.y[:5].tolist() == [7, 2, 1, 0, 4]
    assert splits.mean[0] == pytest.approx(0.1307, abs=1e-3)
