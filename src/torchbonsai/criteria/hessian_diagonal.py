"""What a channel's removal does to the loss, by the curvature.

Paper: LeCun, Denker, Solla: Optimal Brain Damage (NIPS 1989), for single weights; Hutchinson's estimator of a diagonal
as in Bekas, Kokiopoulou, Saad (2007).
Scores: half the second derivative of the loss by a channel's gate. Needs: gradients.
Formula: H (n, n) the Hessian of the mean loss with respect to the gates g at g = 1, a channel multiplied by its gate
wherever a contraction reads it; score[c] = ½ H[c, c] · 1². Hutchinson: H[c, c] ≈ mean over probes z ∈ {−1, 1}ⁿ of
z[c] (Hz)[c]; with probes=None unit vectors instead, one product a channel, which is exact.
Deviations: the true Hessian, no Gauss–Newton or Fisher approximation; on gates, so that the weights of a channel move
together, as they do when it is removed (OBD's sum over single weights leaves their mixed terms out). OBD's assumption
of a vanishing gradient is kept: no first-order term.
Known problems: Hutchinson's noise is the off-diagonal mass: the standard error of H[c, c] falls with 1/√probes, and
scores may be negative. A Hessian-vector product costs about as much as two gradients. Fused attention has no
second derivative, and is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchbonsai.core.errors import PruningError, message
from torchbonsai.criteria.base import Normalise, Scores, ScoringContext
from torchbonsai.criteria.options import whole
from torchbonsai.criteria.sensitivity import Sensitivity


@dataclass(frozen=True)
class HessianDiagonal:
    """½ ∂²loss/∂gate², by `probes` random vectors drawn from `seed`, or exactly (probes=None)."""

    probes: int | None = 16
    seed: int = 0
    normalise: Normalise = "mean"
    needs = frozenset({"gradients"})

    def __post_init__(self) -> None:
        if self.probes is not None:
            whole("probes", self.probes, 1)
        whole("seed", self.seed, 0)

    @property
    def claims(self) -> frozenset[str]:
        """The exact diagonal follows its channels; an estimate's noise does not."""
        return frozenset({"equivariant"}) if self.probes is None else frozenset()

    def score(self, context: ScoringContext) -> Scores:
        """{group: (n atoms,) float64}, of either sign. Raises PruningError where the loss has no gradient."""
        sensitivity, probes = Sensitivity(context), self._probes(context.graph.n_atoms)
        context.details["forward_passes"] = 3 + 6 * len(probes)  # a gradient, and products with H, which go through it

        def diagonal(batch: Any) -> Tensor:
            g = sensitivity.gates()
            (gradient,) = torch.autograd.grad(sensitivity.loss(batch, g), g, create_graph=True)
            total = torch.zeros_like(g)
            for z in probes:
                z = z.to(g)
                (product,) = torch.autograd.grad(gradient, g, z, retain_graph=True, materialize_grads=True)
                total += z * product
            return total if self.probes is None else total / len(probes)

        try:
            found = sensitivity.each(diagonal)
        except RuntimeError as error:
            if "derivative for" not in str(error):
                raise
            raise _no_second_derivative(error) from error
        return sensitivity.scores("HessianDiagonal", torch.stack([share * d / 2 for share, d in found]).sum(0))

    def _probes(self, n: int) -> Tensor:
        """(how many, n) of −1 and 1, or the unit vectors."""
        if self.probes is None:
            return torch.eye(n)
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randint(0, 2, (self.probes, n), generator=generator) * 2.0 - 1


def _no_second_derivative(error: RuntimeError) -> PruningError:
    return PruningError(
        message(
            "every op of the network needs a second derivative",
            str(error).splitlines()[0],
            "a fused kernel, such as scaled_dot_product_attention takes",
            "score inside `with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)`, or use Taylor()",
        )
    )
