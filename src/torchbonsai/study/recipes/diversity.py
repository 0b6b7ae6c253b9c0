"""How alike the widths of several searches are, and how good: random initialisations against a run's checkpoints.

The run's checkpoint at 0 % is untrained, and so of neither kind: with it among the trained ones, their spread would be
that of both kinds mixed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations, product

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


def correlations(kept: Floats, others: Floats | None = None) -> list[float]:
    """Pearson's correlation, over layers, of every pair of searches; or of every one of `kept` with each of `others`.

    A search that kept the same share of every layer has a correlation with none.

    >>> import numpy as np
    >>> kept = np.array([[0.1, 0.2], [0.2, 0.4], [0.4, 0.2]])
    >>> [round(c) for c in correlations(kept)], [round(c) for c in correlations(kept[:1], kept[1:])]
    ([1, -1, -1], [1, -1])
    """
    varied = [k for k in kept if k.std() > 0]
    pairs = combinations(varied, 2) if others is None else product(varied, [k for k in others if k.std() > 0])
    return [float(np.corrcoef(a, b)[0, 1]) for a, b in pairs]


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
        tests = [r.test_accuracy for found in by_kind[kind].values() for r in found]
        told.append(
            f"{len(kept[0])} {name}: correlation {_alike(map(correlations, kept))}, spread "
            f"{np.mean([spread(k) for k in kept]):.3f} of a layer, test accuracy {np.mean(tests):.1%} "
            f"({min(tests):.1%} to {max(tests):.1%})"
        )
    between = _alike(correlations(*(shares(found[s]) for found in by_kind.values())) for s in seeds)
    begun = [r.test_accuracy for r in records if r.arm.start == BEGINNING]
    gap = paired(*({s: float(np.mean([r.test_accuracy for r in f])) for s, f in by_kind[k].items()} for k in KINDS))
    wider = paired(*({s: spread(shares(f)) for s, f in by_kind[k].items()} for k in KINDS))
    budget = records[0].arm.budget
    return [
        f"Widths at {budget} from gates on {'; on '.join(told)}. Random minus trained: accuracy {points(gap)}; "
        f"spread {_plain(wider)}. A correlation is between the layers' shares of two searches of a seed, mean over all "
        f"pairs (the lowest to the highest); of one of either kind it is {between}. Both kinds were trained from new "
        "weights. The run's checkpoint at 0 %, untrained and not among the initialisations, is left out of both "
        f"(test accuracy {np.mean(begun):.1%})."
    ]


def _alike(found: Iterable[Sequence[float]]) -> str:
    """The mean over seeds of the mean correlation, and the range of all."""
    known = [of_seed for of_seed in found if of_seed]
    every = [c for of_seed in known for c in of_seed]
    return f"{np.mean([np.mean(c) for c in known]):.2f} ({min(every):.2f} to {max(every):.2f})" if every else "none"


def _plain(interval: Interval) -> str:
    bounds = "" if interval.low is None else f" [{interval.low:+.3f}, {interval.high:+.3f}]"
    return f"{interval.mean:+.3f}{bounds} ({interval.kind})"
