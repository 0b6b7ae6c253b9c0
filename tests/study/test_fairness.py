"""The arithmetic of equal epochs and equal compute, worked out by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchbonsai.core.errors import ConfigError
from torchbonsai.study.fairness import Epoch, Spent, costliest, scoring_macs, stretched_epochs, training_macs


def test_a_training_step_costs_three_forwards_and_scoring_one() -> None:
    assert training_macs(1000, 7) == 21_000
    assert scoring_macs(1000, 7) == 7_000


def test_a_total_is_the_sum_of_all_that_was_spent() -> None:
    spent = Spent(source=1, start=20, scoring=300, training=4000)
    assert spent.total == 4321
    assert spent.before == 321


def test_equal_compute_by_hand() -> None:
    """Dense 100 MACs, budget 4x: 25; 10 images an epoch in 5 steps of 2; 4 epochs; source: 100 MACs x 20 images.

    untrained: 3·25·40 = 3,000. trained: 3·100·40 + 3,000 = 15,000. pretrained: 3·100·80 + 3,000 + scoring = 27,010.
    """
    epoch = Epoch(images=10, steps=5)
    cut = training_macs(25, epoch.samples(4))
    arms = {
        "untrained": Spent(training=cut),
        "trained": Spent(start=training_macs(100, epoch.samples(4)), training=cut),
        "pretrained": Spent(source=training_macs(100, 80), scoring=scoring_macs(1, 10), training=cut),
    }
    assert {k: a.total for k, a in arms.items()} == {"untrained": 3000, "trained": 15_000, "pretrained": 27_010}
    total = costliest(arms.values())
    assert total == 27_010
    epochs = {k: stretched_epochs(total, a.before, 25, epoch) for k, a in arms.items()}
    # untrained: 27,010 / 75 = 360.1 images = 36 epochs; trained: 15,010 / 75 = 200.1 = 20; pretrained: 3,000 / 75 = 4.
    assert epochs == {"untrained": 36.0, "trained": 20.0, "pretrained": 4.0}
    # the dense control, from random weights: 27,010 / 300 = 90.03 images = 9 epochs
    assert stretched_epochs(total, 0, 100, epoch) == 9.0


def test_steps_are_whole_and_never_spend_more_than_is_left() -> None:
    epoch = Epoch(images=10, steps=4)  # steps of 3, 3, 2, 2 images
    assert [epoch.samples(e) for e in (0.25, 0.5, 0.75, 1.0, 2.5)] == [3, 6, 8, 10, 26]
    assert [epoch.within(s) for s in (2, 3, 5, 6, 7, 8, 9, 10, 13)] == [0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1.0, 1.25]


@given(st.integers(1, 5000), st.integers(1, 50), st.integers(0, 100_000))
def test_within_is_maximal(images: int, steps: int, samples: int) -> None:
    epoch = Epoch(images, min(steps, images))
    epochs = epoch.within(samples)
    if epochs:
        assert epoch.samples(epochs) <= samples
    assert epoch.samples(epochs + 1 / epoch.steps) > samples


@pytest.mark.parametrize(("images", "batch", "epochs"), [(10, 3, 1.75), (1000, 128, 2.0), (7, 7, 1.0)])
def test_samples_are_those_that_the_loop_sees(images: int, batch: int, epochs: float) -> None:
    """The same chunks that `training.loop.fit` makes of a permutation."""
    steps = -(-images // batch)
    chunks = [len(c) for c in torch.arange(images).tensor_split(steps)]
    seen = sum((chunks * 3)[: round(epochs * steps)])
    assert Epoch(images, steps).samples(epochs) == seen


@pytest.mark.parametrize("before", [1000, 999, 5000])
def test_no_step_left_is_an_error_that_says_so(before: int) -> None:
    with pytest.raises(ConfigError, match="at least one training step"):
        stretched_epochs(1000, before, 25, Epoch(10, 5))
