"""y = b + Σ_j w_j m_j fitted to masks m and performances y: ridge or least squares in closed form, with errors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import ndtr
from torch import Tensor

from torchbonsai.criteria.masks import Masks

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LinearFit:
    """effects, standard_errors: (n,) float64, in units of the performance.

    The errors say how much the effects would vary with other masks on the same images, by the residuals of the fit;
    nothing of other images. Designs of opposed masks ("antithetic", "hadamard") are surer than they say: what pairs of
    channels do together is in the residuals, and cancels from the effects. With ridge, effects are also drawn towards
    zero, by a bias that is not in the errors. They and `residual` are NaN where least squares could not tell the
    channels apart with masks to spare, whatever the ridge: a fit through all points leaves no residuals to learn from.
    r_squared: the share of the performance's variance over masks that the fit explains, NaN where it does not vary.
    residual: standard deviation around the fit. masks: how many it was fitted to. settled: was the ranking at the cut
    settled; None where that was not asked.
    """

    effects: Tensor
    standard_errors: Tensor
    intercept: float
    r_squared: float
    residual: float
    masks: int
    settled: bool | None = None

    def part(self, start: int, stop: int) -> LinearFit:
        """The same fit, of some of its channels."""
        cut = slice(start, stop)
        return replace(self, effects=self.effects[cut], standard_errors=self.standard_errors[cut])

    def doubt(self, share: float) -> float:
        """The expected share of channels on the wrong side of the cut that keeps `share` of them.

        By a normal error of each effect against the middle of the gap at the cut; 1/2 for a channel whose error is not
        known.
        """
        effects, errors = self.effects.numpy(), self.standard_errors.numpy()
        kept = max(1, int(np.floor(share * len(effects) + 0.5)))
        if kept >= len(effects):
            return 0.0
        ranked = np.sort(effects)[::-1]
        away = np.abs(effects - (ranked[kept - 1] + ranked[kept]) / 2)
        wrong = np.where(errors > 0, ndtr(-away / np.where(errors > 0, errors, 1)), 0.0)
        return float(np.where(np.isfinite(errors), wrong, 0.5).mean())


def identifiable(masks: Masks) -> bool:
    """Can every channel's effect be told from the others', with at least two masks left for the errors?"""
    centred = masks - masks.mean(0)
    n = masks.shape[1]
    return len(masks) >= n + 3 and int(np.linalg.matrix_rank(centred)) == n


def fit_linear(masks: Masks, performance: Floats, ridge: float = 0.0) -> LinearFit:
    """w = (XᵀX + ridge·I)⁻¹ Xᵀy on centred masks X (K, n) and performances y (K,); ridge = 0: least squares.

    Its covariance is σ² A⁻¹ XᵀX A⁻¹ with A = XᵀX + ridge·I and σ² = residuals / (K − 1 − trace(A⁻¹XᵀX)): it is that of
    the masks, without the bias of the ridge. σ² is NaN unless XᵀX has full rank, K ≥ n + 3, and at least n + 2 of the
    masks differ.
    """
    x = masks - masks.mean(0)
    y = performance - performance.mean()
    values, vectors = np.linalg.eigh(x.T @ x)
    values = np.where(values > 1e-10 * max(values.max(initial=0.0), 1.0), values, 0.0)
    inverse = np.where(values + ridge > 0, 1 / np.where(values + ridge > 0, values + ridge, 1), 0.0)
    effects = vectors @ (inverse * (vectors.T @ (x.T @ y)))
    spare = len(y) >= len(values) + 3 and len(np.unique(masks, axis=0)) >= len(values) + 2  # twice the same tells once
    left = len(y) - 1 - float((values * inverse).sum())
    residuals = float(((y - x @ effects) ** 2).sum())
    variance = residuals / left if spare and values.all() else float("nan")
    errors = np.sqrt(variance * ((vectors**2) @ (values * inverse**2)))
    total = float((y**2).sum())
    return LinearFit(
        torch.from_numpy(effects),
        torch.from_numpy(errors),
        float(performance.mean() - masks.mean(0) @ effects),
        1 - residuals / total if total > 0 else float("nan"),
        float(np.sqrt(variance)),
        len(y),
    )
