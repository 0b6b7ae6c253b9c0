"""Which channels are off in which evaluation: designs of masks, drawn in rounds.

independent: every channel on with probability `keep`, whatever the others.
antithetic: in pairs; where one mask's draw is u, its partner's is 1 − u.
balanced: every channel is off in exactly one mask of a round of r = ⌈1 / (1 − keep)⌉, drawn for itself (so the share
that is on is 1 − 1 / r, which is `keep` where r is whole).
hadamard: keep = 0.5 only; rows of a Hadamard matrix of order > n (Plackett–Burman design) with columns and signs drawn
anew, then the same with on and off exchanged: all columns orthogonal in each half, and effects of pairs of channels
cancel from the estimates over a whole round.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from torchbonsai.core.errors import ConfigError, message

Masks = npt.NDArray[np.bool_]
"""(masks, channels), True = on."""
Design = Literal["independent", "antithetic", "balanced", "hadamard"]
DESIGNS = ("independent", "antithetic", "balanced", "hadamard")


def draw_round(design: Design, n: int, keep: float, generator: np.random.Generator) -> Masks:
    """One round of masks over n channels.

    Raises ConfigError for "hadamard" with another `keep` than 0.5.
    """
    if design == "hadamard":
        return _hadamard(n, keep, generator)
    if design == "balanced":
        rounds = max(2, math.ceil(round(1 / (1 - keep), 9)))
        turn = generator.integers(rounds, size=n)
        return turn[None, :] != np.arange(rounds)[:, None]
    if design == "antithetic":
        u = generator.random((max(1, n // 2), n))
        return np.stack([u < keep, 1 - u < keep], axis=1).reshape(-1, n)
    return generator.random((n, n)) < keep


def _hadamard(n: int, keep: float, generator: np.random.Generator) -> Masks:
    if keep != 0.5:
        raise ConfigError(
            message("a Hadamard design has every channel on in half of its masks", f"keep={keep}", "", "keep=0.5")
        )
    matrix = hadamard_matrix(n + 1)
    columns = 1 + generator.permutation(len(matrix) - 1)[:n]
    signs = generator.choice((-1, 1), n)
    half = matrix[:, columns] * signs > 0
    return np.concatenate([half, ~half])


@cache
def hadamard_matrix(at_least: int) -> npt.NDArray[np.int64]:
    """A Hadamard matrix, H @ H.T = N I, of the smallest order N ≥ at_least that doubling and Paley's first way reach.

    Its first column is all ones. Paley's way: N − 1 a prime that is 3 modulo 4.
    """
    order = next(m for m in range(max(at_least, 1), 4 * at_least + 4) if _reachable(m))
    return _matrix(order)


def _reachable(order: int) -> bool:
    return order in (1, 2) or _paley(order) or (order % 4 == 0 and _reachable(order // 2))


def _paley(order: int) -> bool:
    q = order - 1
    return q % 4 == 3 and all(q % d for d in range(2, math.isqrt(q) + 1))


def _matrix(order: int) -> npt.NDArray[np.int64]:
    if order == 1:
        return np.ones((1, 1), dtype=np.int64)
    if not _paley(order):
        half = _matrix(order // 2)
        return np.block([[half, half], [half, -half]])
    q = order - 1
    squares = {(i * i) % q for i in range(1, q)}
    character = np.array([0] + [1 if i in squares else -1 for i in range(1, q)])
    skew = np.zeros((order, order), dtype=np.int64)
    skew[0, 1:], skew[1:, 0] = 1, -1
    skew[1:, 1:] = character[(np.arange(q)[:, None] - np.arange(q)[None, :]) % q]
    matrix = skew + np.eye(order, dtype=np.int64)
    return matrix * matrix[:, :1]
