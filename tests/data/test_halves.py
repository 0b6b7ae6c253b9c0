"""`test_half`: scores and choices on one half of the test set, accuracy on the other, where all else was seen."""

from __future__ import annotations

import pytest
import torch

from torchbonsai.core.config import plain
from torchbonsai.core.errors import ConfigError
from torchbonsai.data import DataConfig, Split, Splits, TrainSplit, load
from torchbonsai.study.stages.gates import to_learn_on
from torchbonsai.study.stages.images import digest_of, to_score_on


def rows(split: Split | None) -> set[bytes]:
    assert split is not None
    return {x.numpy().tobytes() + bytes([int(y)]) for x, y in zip(split.x, split.y, strict=True)}


@pytest.fixture(scope="module")
def halved() -> Splits:
    return load(DataConfig(test_half=True))


def test_the_parts_are_the_test_set_and_no_image_is_in_two(halved: Splits) -> None:
    parts = [rows(halved.unseen), rows(halved.val), rows(halved.test)]
    assert [len(p) for p in parts] == [400, 400, 800]
    assert set().union(*parts) == rows(load(DataConfig()).test)
    assert len(set().union(*parts)) == 1600
    for split in halved.parts:
        assert len(set(torch.bincount(split.y).tolist())) == 1, "of every class as many"
    assert "choices on half of the test set, accuracy on the other half" in halved.source


def test_all_training_images_are_trained_on_and_no_other(halved: Splits) -> None:
    whole = load(DataConfig())
    assert rows(halved.train) == rows(whole.train) | rows(whole.val)


def test_a_limit_and_a_seed_move_training_images_alone(halved: Splits) -> None:
    other = load(DataConfig(test_half=True, limit_train=50, seed=4))
    assert len(other.train) == 50
    for mine, theirs in zip(halved.parts[1:], other.parts[1:], strict=True):
        assert torch.equal(mine.x, theirs.x)
        assert torch.equal(mine.y, theirs.y)


def test_scores_see_the_unseen_images(halved: Splits) -> None:
    assert type(halved.unseen) is TrainSplit
    ((_, classes),) = to_score_on(halved, 100)
    assert torch.equal(classes, halved.unseen.y[:100])
    batches = to_learn_on(halved, 50000, 128)
    assert torch.equal(torch.cat([y for _, y in batches]), halved.unseen.y), "and so do gates"
    moved = halved.to("cpu")
    assert moved.unseen is not None
    assert moved.name == halved.name


def test_it_is_part_of_the_identity_and_leaves_others_as_they_were(halved: Splits) -> None:
    assert "test_half" not in plain(DataConfig()), "a study that was begun before the option was there goes on"
    assert plain(DataConfig(test_half=True))["test_half"] is True
    assert digest_of(halved) != digest_of(load(DataConfig()))
    without = Splits(*halved.parts[:3], halved.name, halved.classes, halved.mean, halved.std, halved.source)  # type: ignore[arg-type]
    assert digest_of(halved) != digest_of(without)


def test_a_number_of_validation_images_has_no_place_beside_it() -> None:
    with pytest.raises(ConfigError, match="test_half"):
        load(DataConfig(val_size=100, test_half=True))
