"""Designs of masks: what each promises of its rounds."""

import numpy as np
import pytest

from torchbonsai.core.errors import ConfigError
from torchbonsai.criteria.masks import DESIGNS, draw_round, hadamard_matrix


def rounds(design, n, keep, how_many, seed=0):
    generator = np.random.default_rng(seed)
    return [draw_round(design, n, keep, generator) for _ in range(how_many)]


@pytest.mark.parametrize("order", [1, 2, 4, 8, 12, 16, 20, 24, 32, 40, 44, 48, 60, 64, 68, 72, 80, 84, 128])
def test_hadamard_matrices(order):
    matrix = hadamard_matrix(order)
    assert np.array_equal(matrix @ matrix.T, order * np.eye(order))
    assert set(np.unique(matrix)) <= {-1, 1}
    assert (matrix[:, 0] == 1).all()


def test_the_next_order_is_near():
    for n in range(2, 600):
        order = len(hadamard_matrix(n))
        assert n <= order <= max(1.3 * n, n + 7)


@pytest.mark.parametrize("n", [1, 3, 5, 16, 31, 64])
def test_hadamard_columns_are_orthogonal_and_rounds_fold_over(n):
    (masks,) = rounds("hadamard", n, 0.5, 1)
    half = len(masks) // 2
    signs = np.where(masks, 1, -1)
    assert np.array_equal(signs[:half].T @ signs[:half], half * np.eye(n))
    assert (masks[:half] != masks[half:]).all()
    assert (masks.sum(0) == half).all()


def test_hadamard_has_half_of_the_channels_on():
    with pytest.raises(ConfigError, match="half"):
        draw_round("hadamard", 4, 0.9, np.random.default_rng(0))


@pytest.mark.parametrize(("keep", "size"), [(0.9, 10), (0.75, 4), (0.5, 2), (0.3, 2)])
def test_balanced_rounds_have_every_channel_off_once(keep, size):
    for masks in rounds("balanced", 20, keep, 20):
        assert masks.shape == (size, 20)
        assert ((~masks).sum(0) == 1).all()
    off = np.concatenate([(~masks).sum(1) for masks in rounds("balanced", 20, keep, 20)])
    assert len(set(off)) > 2, "as many off in every mask would hide the sum of all effects"


@pytest.mark.parametrize("design", ["independent", "antithetic"])
@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_drawn_ones_keep_the_share(design, keep):
    masks = np.concatenate(rounds(design, 40, keep, 60))
    assert masks.mean() == pytest.approx(keep, abs=0.01)
    assert len(np.unique(masks, axis=0)) > 0.8 * len(masks)


def test_antithetic_pairs_are_opposed():
    masks = np.concatenate(rounds("antithetic", 20, 0.9, 10))
    first, second = masks[::2], masks[1::2]
    assert not (~first & ~second).any(), "no channel is off in both, at keep ≥ 0.5"
    half = np.concatenate(rounds("antithetic", 20, 0.5, 5))
    assert (half[::2] != half[1::2]).all()


@pytest.mark.parametrize("design", DESIGNS)
def test_the_same_seed_draws_the_same(design):
    one, two, other = (np.concatenate(rounds(design, 9, 0.5, 3, seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)
