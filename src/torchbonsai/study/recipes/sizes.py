"""Which arms are so alike in size that one control of uniform width will do for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torchbonsai.study.recipes.chain import Chain
from torchbonsai.study.runs import Finished
from torchbonsai.study.table import TOLERANCE

Sizes = Mapping[str, Mapping[int, float]]
"""An arm, as "start method" -> seed -> what it kept, as a share of the dense network's."""


@dataclass(frozen=True)
class Group:
    """Arms of one size. share: seed -> of the dense network's, as the first of them kept. shares: those of all of them,
    and of the first."""

    share: Mapping[int, float]
    arms: tuple[str, ...]
    shares: tuple[Mapping[int, float], ...] = field(default=(), compare=False)


def sizes(chains: Iterable[Chain], unit: Literal["macs", "params"], finished: Finished) -> Sizes:
    """What each of the cut arms kept."""
    found: dict[str, dict[int, float]] = {}
    for c in chains:
        network = finished[c.network.spec].result["network"]
        found.setdefault(f"{c.arm.start} {c.arm.method}", {})[c.seed] = network[unit] / network[f"dense_{unit}"]
    return found


def groups(found: Sizes, known: Sequence[Group] = ()) -> list[Group]:
    """Every arm with the first group all of whose shares it has within 2 % in all seeds, so that pairs are of a group.

    known: groups of other arms, whose shares are taken first; those that none of `found` has are left out.

    >>> [g.arms for g in groups({"new a": {0: 0.5}, "new b": {0: 0.3}, "old a": {0: 0.495}})]
    [('new a', 'old a'), ('new b',)]
    """
    made = [Group(g.share, (), (g.share,)) for g in known]
    for arm, share in found.items():
        place = next((n for n, g in enumerate(made) if all(_alike(share, s) for s in g.shares)), None)
        if place is None:
            made.append(Group(share, (arm,), (share,)))
        else:
            group = made[place]
            made[place] = Group(group.share, (*group.arms, arm), (*group.shares, share))
    return [g for g in made if g.arms]


def _alike(a: Mapping[int, float], b: Mapping[int, float]) -> bool:
    return all(abs(a[seed] - b[seed]) <= TOLERANCE * max(a[seed], b[seed]) for seed in a)
