"""The linear fit: exact on additive data, ridge by hand, and errors that mean what they say."""

import numpy as np
import pytest
import torch
from scipy import linalg

from torchbonsai.criteria.linear_fit import fit_linear, identifiable
from torchbonsai.criteria.masks import draw_round


def masks_of(n, how_many, keep=0.6, seed=0):
    return np.random.default_rng(seed).random((how_many, n)) < keep


def test_an_additive_performance_is_recovered_exactly():
    masks, effects = masks_of(7, 12), np.random.default_rng(1).normal(size=7)
    fit = fit_linear(masks, 3 + masks @ effects)
    assert np.allclose(fit.effects, effects, rtol=0, atol=1e-12)
    assert fit.intercept == pytest.approx(3)
    assert fit.r_squared == pytest.approx(1)
    assert float(fit.standard_errors.max()) < 1e-12
    assert fit.masks == 12


def test_least_squares_and_ridge_against_the_normal_equations():
    masks, y = masks_of(6, 30), np.random.default_rng(2).normal(size=30)
    x = masks - masks.mean(0)
    for ridge in (0.0, 2.5):
        fit = fit_linear(masks, y, ridge)
        a = x.T @ x + ridge * np.eye(6)
        assert np.allclose(fit.effects, linalg.solve(a, x.T @ (y - y.mean())))
        left = 30 - 1 - np.trace(linalg.solve(a, x.T @ x))
        residuals = y - y.mean() - x @ fit.effects.numpy()
        covariance = residuals @ residuals / left * (linalg.inv(a) @ x.T @ x @ linalg.inv(a))
        assert np.allclose(fit.standard_errors, np.sqrt(np.diag(covariance)))
        assert fit.residual == pytest.approx(np.sqrt(residuals @ residuals / left))


def test_standard_errors_are_the_spread_over_draws_of_masks():
    effects, found, said = np.linspace(-1, 1, 8), [], []
    for seed in range(300):
        generator = np.random.default_rng(seed)
        masks = generator.random((40, 8)) < 0.7
        fit = fit_linear(masks, masks @ effects + generator.normal(0, 0.5, 40))
        found.append(fit.effects.numpy())
        said.append(fit.standard_errors.numpy())
    spread, mean = np.std(found, 0), np.sqrt(np.mean(np.square(said), 0))
    assert np.allclose(spread, mean, rtol=0.15)
    assert np.allclose(np.mean(found, 0), effects, atol=0.05)


@pytest.mark.parametrize("design", ["antithetic", "hadamard"])
def test_exchanged_masks_cancel_the_effects_of_pairs(design):
    """At keep = 0.5 a mask and its opposite see the same pair effects."""
    n, pairs = 6, np.random.default_rng(3).normal(size=(6, 6))
    generator = np.random.default_rng(4)
    masks = np.concatenate([draw_round(design, n, 0.5, generator) for _ in range(4)])
    signs = np.where(masks, 1, -1)
    y = masks @ np.arange(n) + np.einsum("ki,ij,kj->k", signs, pairs, signs)
    assert np.allclose(fit_linear(masks, y).effects, np.arange(n), atol=1e-9)
    other = np.concatenate([draw_round("independent", n, 0.5, generator) for _ in range(8)])
    signs = np.where(other, 1, -1)
    y = other @ np.arange(n) + np.einsum("ki,ij,kj->k", signs, pairs, signs)
    assert not np.allclose(fit_linear(other, y).effects, np.arange(n), atol=0.01)


def test_constant_performance_and_single_channels():
    flat = fit_linear(masks_of(4, 20), np.full(20, 2.0))
    assert torch.equal(flat.effects, torch.zeros(4, dtype=torch.float64))
    assert np.isnan(flat.r_squared)
    assert flat.doubt(0.5) == 0
    one = fit_linear(np.array([[True], [False], [True], [False]]), np.array([1.0, 0, 1, 0]))
    assert one.effects.tolist() == pytest.approx([1])


def test_what_masks_can_tell_apart():
    masks = masks_of(5, 20)
    assert identifiable(masks)
    assert not identifiable(masks[:7])
    masks[:, 2] = True
    assert not identifiable(masks)
    masks[:, 2] = masks[:, 1]
    assert not identifiable(masks)


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 10.0])
def test_no_errors_where_masks_cannot_tell_the_channels_apart(ridge):
    masks, effects = masks_of(6, 9), np.arange(6.0)
    few, narrow = masks[:8], masks.copy()  # of six effects, an intercept and two to spare, one is missing
    narrow[:, 2] = True
    for some in (few, narrow):
        fit = fit_linear(some, some @ effects, ridge)
        assert fit.standard_errors.isnan().all()
        assert np.isnan(fit.residual)
        assert fit.effects.isfinite().all()
        assert fit.doubt(0.5) == 0.5, "no knowledge is a coin's"
    assert fit_linear(masks, masks @ effects, ridge).standard_errors.isfinite().all()


def test_equal_masks_leave_nothing_for_the_errors():
    """Each of three channels left out in turn, and none, ten times over: a fit goes through any four numbers."""
    masks = np.tile(np.concatenate([~np.eye(3, dtype=bool), np.ones((1, 3), dtype=bool)]), (10, 1))
    assert identifiable(masks)
    assert fit_linear(masks, masks.prod(1).astype(float)).standard_errors.isnan().all()
    fifth = np.concatenate([masks, [[False, False, True]]])
    assert (fit_linear(fifth, fifth.prod(1).astype(float)).standard_errors > 0).all()


def test_doubt_at_the_cut():
    def fit_with(effects, error):
        fit = fit_linear(masks_of(4, 20), masks_of(4, 20) @ np.array(effects, dtype=float))
        return type(fit)(fit.effects, torch.full((4,), error, dtype=torch.float64), 0, 1, 0, 20)

    apart = fit_with([0, 1, 10, 11], 1.0)
    assert apart.doubt(0.5) < 1e-5
    assert apart.doubt(0.75) > 0.1, "the cut between 0 and 1 is not settled at this error"
    assert fit_with([0, 1, 10, 11], 100.0).doubt(0.5) > 0.4
    assert apart.doubt(1.0) == 0, "nothing is cut"
    sure, unknown = fit_with([0, 1, 10, 11], 0.0), fit_with([0, 1, 10, 11], 0.0)
    unknown.standard_errors[1] = torch.nan
    assert (sure.doubt(0.5), unknown.doubt(0.5)) == (0, 0.5 / 4)
    assert fit_with([0, 1, 10, 11], float("inf")).doubt(0.5) == 0.5


def test_a_part_of_a_fit():
    fit = fit_linear(masks_of(6, 30), np.random.default_rng(0).normal(size=30))
    part = fit.part(2, 5)
    assert torch.equal(part.effects, fit.effects[2:5])
    assert torch.equal(part.standard_errors, fit.standard_errors[2:5])
    assert part.masks == 30
