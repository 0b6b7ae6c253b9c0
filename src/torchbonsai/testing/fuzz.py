"""Networks and cuts drawn by hypothesis, and a count of what became of every hazard. Needs hypothesis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from torchbonsai.core.errors import BudgetError
from torchbonsai.testing.hazards import HAZARDS
from torchbonsai.testing.networks import Spec, cut

_SEEDS = st.integers(0, (1 << 20) - 1)
_STAGE = st.tuples(st.sampled_from(sorted(HAZARDS)), _SEEDS, st.booleans())
SPECS = st.builds(
    Spec,
    width=st.integers(2, 9),
    stages=st.lists(_STAGE, min_size=1, max_size=4).map(tuple),
    flat_head=st.booleans(),
    seed=_SEEDS,
)
CUTS = st.fixed_dictionaries(
    {"share": st.sampled_from((0.25, 0.5, 0.75)), "scope": st.sampled_from(("global", "uniform"))}
)


@dataclass
class Tally:
    """fates: hazard -> fate -> networks. whole: networks of which nothing can go. failures: spec and error."""

    networks: int = 0
    exact: int = 0
    inexact: int = 0
    whole: int = 0
    largest_error: float = 0.0
    fates: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in HAZARDS})
    failures: list[str] = field(default_factory=list)

    def add(self, spec: Spec, options: dict[str, Any]) -> None:
        """Grow, cut and check one network; raises whatever the check raises but that nothing can go."""
        self.networks += 1
        try:
            result, fates = cut(spec, **options)
        except BudgetError as error:
            if not any(said in str(error) for said in ("whose every channel is frozen", "reachable floor")):
                raise
            self.whole += 1
            for name, _, _ in spec.stages:
                self.fates[name]["frozen"] += 1
            return
        for k, fate in fates.items():
            self.fates[spec.stages[k][0]][fate] += 1
        self.exact += result.verification.exact
        self.inexact += not result.verification.exact
        if result.verification.exact:
            self.largest_error = max(self.largest_error, result.verification.max_rel_error or 0.0)


def fuzz(n: int, number: int, tally: Tally, *, stop: bool = True) -> None:
    """n networks from the random seed `number`. stop: raise at the first failure, shrunk; else note it and go on."""

    @seed(number)
    @settings(
        max_examples=n,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink) if stop else (Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(spec=SPECS, options=CUTS)
    def one(spec: Spec, options: dict[str, Any]) -> None:
        if stop:
            tally.add(spec, options)
            return
        try:
            tally.add(spec, options)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
            tally.failures.append(f"{spec!r} {options!r} {type(error).__name__}: {error}")

    run: Callable[[], None] = one
    run()
