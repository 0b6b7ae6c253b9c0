"""Batches that are scored on: none of a single image, and all others as they were."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchbonsai.data import DataConfig, Splits, load
from torchbonsai.pruning.recalibrate import recalibrate
from torchbonsai.study.stages.images import to_score_on


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load(DataConfig())


@pytest.mark.parametrize(
    ("limit", "sizes"),
    [(1, [1]), (128, [128]), (129, [65, 64]), (130, [128, 2]), (257, [86, 86, 85]), (258, [128, 128, 2])],
)
def test_the_last_batch_is_no_single_image(splits: Splits, limit: int, sizes: list[int]) -> None:
    found = to_score_on(splits, limit)
    assert [len(x) for x, _ in found] == sizes
    assert torch.equal(torch.cat([y for _, y in found]), splits.train.y[:limit])
    held = to_score_on(splits, 10**6, limit)
    assert [len(x) for x, _ in held] == sizes, "and of images that are held out"
    assert torch.equal(torch.cat([y for _, y in held]), splits.train.y[-limit:])


def test_a_norm_behind_a_global_pooling_is_recalibrated(splits: Splits) -> None:
    channels = splits.in_shape[0]
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(channels), nn.Linear(channels, 10))
    assert recalibrate(model, to_score_on(splits, 129)) == ("2.running_mean",)
