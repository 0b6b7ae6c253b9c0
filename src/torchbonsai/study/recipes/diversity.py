"""How alike the widths of several searches are, and how good: random initialisations against a run's checkpoints.

The run's checkpoint at 0 % is untrained, and so of neither kind: with it among the trained ones, their spread would be
that of both kinds mixed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from torchbonsai.study.recipes.words import points
from torchbonsai.study.record import RunRecord
from torchbonsai.study.statistics import Interval, paired

Floats = npt.NDArray[np.float64]
KINDS = {"init": "random initialisations", "checkpoint": "trained checkpoints of one run"}
BEGINNING = "checkpoint 0%"


def shares(records: Sequence[RunRecord]) -> Floats:
    """(searches, layers) the share of each layer's channels that each search kept."""
    layers = list(records[0].widths)
    return np.array([[r.widths[n] / r.dense_widths[n] for n in layers] for r in records])


def correlation(kept: Floats) -> float:
    """The mean Pearson correlation, over layers, of all pairs of searches; NaN where there is no pair with one.

    A search that kept the same share of every layer has a correlation with none.

    >>> import numpy as np
    >>> round(correlation(np.array([[0.1, 0.2], [0.2, 0.4], [0.4, 0.2]])), 3)
    -0.333
    """
    varied = [k for k in kept if k.std() > 0]
    found = [float(np.corrcoef(a, b)[0, 1]) for a, b in combinations(varied, 2)]
    return float(np.mean(found)) if found else float("nan")


def spread(kept: Floats) -> float:
    """The standard deviation over searches of a layer's share (n - 1), mean over layers."""
    return float(kept.std(axis=0, ddof=1).mean())


def diversity(records: Sequence[RunRecord]) -> list[str]:
    """Correlation and spread of widths, and accuracy after training, of both kinds of search, paired by seed."""
    seeds = sorted({r.seed for r in records})
    told_of = [r for r in records if r.arm.start != BEGINNING]
    by_kind = {k: {s: [r for r in told_of if r.seed == s and r.arm.start.startswith(k)] for s in seeds} for k in KINDS}
    told = []
    for kind, name in KINDS.items():
        kept = [shares(found) for found in by_kind[kind].values()]
        alike = [c for c in map(correlation, kept) if not math.isnan(c)]
        tests = [r.test_accuracy for found in by_kind[kind].values() for r in found]
        told.append(
            f"{len(kept[0])} {name}: correlation {f'{np.mean(alike):.2f}' if alike else 'none'}, spread "
            f"{np.mean([spread(k) for k in kept]):.3f} of a layer, test accuracy {np.mean(tests):.1%} "
            f"({min(tests):.1%} to {max(tests):.1%})"
        )
    begun = [r.test_accuracy for r in records if r.arm.start == BEGINNING]
    gap = paired(*({s: float(np.mean([r.test_accuracy for r in f])) for s, f in by_kind[k].items()} for k in KINDS))
    wider = paired(*({s: spread(shares(f)) for s, f in by_kind[k].items()} for k in KINDS))
    budget = records[0].arm.budget
    return [
        f"Widths at {budget} from gates on {'; on '.join(told)}. Random minus trained: accuracy {points(gap)}; "
        f"spread {_plain(wider)}. Correlation is between the layers' shares of two searches, mean over all pairs; both "
        "kinds were trained from new weights. The run's checkpoint at 0 %, untrained and not among the "
        f"initialisations, is left out of both (test accuracy {np.mean(begun):.1%})."
    ]


def _plain(interval: Interval) -> str:
    bounds = "" if interval.low is None else f" [{interval.low:+.3f}, {interval.high:+.3f}]"
    return f"{interval.mean:+.3f}{bounds} ({interval.kind})"
