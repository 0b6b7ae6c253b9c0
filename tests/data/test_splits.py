"""Splits, stratified choices, and the embedded data."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchbonsai.core.errors import ConfigError, DataError
from torchbonsai.data import DataConfig, Splits, TestSplit, TrainSplit, ValSplit, fashion, load, names
from torchbonsai.data.fashion import halved
from torchbonsai.data.stratify import split_off


def rows(split: TrainSplit) -> set[bytes]:
    return {x.numpy().tobytes() + bytes([int(y)]) for x, y in zip(split.x, split.y, strict=True)}


@given(st.lists(st.integers(0, 4), min_size=2, max_size=60), st.data())
def test_a_stratified_choice_has_every_class_in_proportion(labels: list[int], data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(labels) - 1))
    y = np.asarray(labels)
    chosen, rest = split_off(y, size, 3, "a part")
    assert len(chosen) == size
    assert sorted([*chosen, *rest]) == list(range(len(y)))
    for cls in set(labels):
        exact = size * labels.count(cls) / len(labels)
        assert abs((y[chosen] == cls).sum() - exact) < 1


@pytest.mark.parametrize("size", [0, -1, 10, 11])
def test_an_impossible_size_is_an_error(size: int) -> None:
    with pytest.raises(DataError, match="limit_train"):
        split_off(np.zeros(10, dtype=np.int64), size, 0, "limit_train")


def test_the_embedded_default() -> None:
    splits = load(DataConfig())
    assert splits.in_shape == (1, 14, 14)
    assert (len(splits.train), len(splits.val), len(splits.test), splits.classes) == (1000, 400, 1600, 5)
    assert type(splits.train) is TrainSplit
    assert type(splits.val) is ValSplit
    assert type(splits.test) is TestSplit
    for split in (splits.train, splits.val, splits.test):
        assert len(set(torch.bincount(split.y).tolist())) == 1
    assert "MIT" in splits.source
    assert "Zalando" in splits.source


def test_no_image_is_in_two_splits() -> None:
    splits = load(DataConfig("fashion10-28"))
    train, val, test = (rows(s) for s in (splits.train, splits.val, splits.test))
    assert not train & val
    assert not train & test
    assert not val & test
    assert len(train) + len(val) + len(test) == 6000


def test_the_two_tasks_share_no_class_and_their_images_are_their_own() -> None:
    assert not set(fashion.TASKS["fashion-target"]) & set(fashion.TASKS["fashion-source"])
    target, source = load(DataConfig("fashion-target")), load(DataConfig("fashion-source"))
    assert not rows(target.train) & rows(source.train)


def test_loading_is_deterministic_and_seeded_and_the_test_split_never_moves() -> None:
    first, again, other = (load(DataConfig(seed=s)) for s in (1, 1, 2))
    assert torch.equal(first.train.x, again.train.x)
    assert torch.equal(first.val.y, again.val.y)
    assert rows(first.train) != rows(other.train)
    assert torch.equal(first.test.x, other.test.x)
    assert torch.equal(first.test.y, other.test.y)


def test_limit_train_leaves_validation_and_test_alone() -> None:
    whole, limited = load(DataConfig()), load(DataConfig(limit_train=50))
    assert torch.bincount(limited.train.y).tolist() == [10] * 5
    assert rows(limited.train) < rows(whole.train)
    assert torch.equal(whole.val.x, limited.val.x)
    assert torch.equal(whole.test.x, limited.test.x)
    assert len(load(DataConfig(limit_train=1000)).train) == 1000
    assert len(load(DataConfig(val_size=100)).train) == 1300


@pytest.mark.parametrize("settings", [{"limit_train": 0}, {"limit_train": 1001}, {"val_size": 0}, {"val_size": 1400}])
def test_impossible_sizes(settings: dict) -> None:
    with pytest.raises(DataError):
        load(DataConfig(**settings))


def test_mean_and_deviation_are_those_of_the_training_images() -> None:
    splits = load(DataConfig())
    x = splits.train.x.double() / 255
    assert splits.mean[0] == pytest.approx(float(x.mean()), rel=1e-12)
    assert splits.std[0] == pytest.approx(float(x.std(correction=0)), rel=1e-12)


def test_averaging() -> None:
    image = np.array([[[0, 1, 255, 255], [0, 1, 255, 254]]], dtype=np.uint8)
    assert halved(image).tolist() == [[[1, 255]]]  # 0.5 is rounded up, 254.75 too


def test_unknown_name_and_folder_for_an_embedded_set() -> None:
    assert names()[0] == "fashion-target"
    with pytest.raises(ConfigError, match="fashion-target"):
        load(DataConfig("fashion-targt"))
    with pytest.raises(ConfigError, match="embedded"):
        load(DataConfig(data_dir="."))


def test_the_embedded_folder_names_source_and_licence_and_is_small() -> None:
    folder = resources.files("torchbonsai.data") / "embedded"
    text = (folder / "SOURCE.md").read_text()
    assert "Zalando" in text
    assert "MIT License" in text
    assert sum(len(f.read_bytes()) for f in folder.iterdir()) <= 3_000_000


def test_a_split_refuses_what_it_is_not() -> None:
    x, y = torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    for wrong in [(x.float(), y), (x[:, 0], y), (x, y[:1]), (x, y.int()), (x[:0], y[:0])]:
        with pytest.raises(DataError):
            TrainSplit(*wrong)
    with pytest.raises(DataError, match="classes"):
        Splits(TrainSplit(x, y + 1), ValSplit(x, y), TestSplit(x, y), "two", 1, (0.5,), (0.5,), "here")
    with pytest.raises(DataError):
        Splits(TrainSplit(x, y), ValSplit(x, y), TestSplit(x, y), "two", 1, (0.5, 0.5), (0.5, 0.5), "here")


def test_moving_keeps_the_kind() -> None:
    splits = load(DataConfig()).to("cpu")
    assert type(splits.val) is ValSplit
    assert splits.name == "fashion-target"
