"""What recipes that cut and train in rounds have in common: the arms, their controls, both fairnesses.

    start ─ [train ─] cut ─ train ─ cut ─ train … ─ test
                      └ validation after every cut and every training

Weights are kept after a cut, rewound or made anew (`--weights`), in the control of random channels alike; made anew,
they are the same whichever channels had been chosen, so that there is no such control.

Controls: random channels with the same counts in every round; the last shape with new weights; uniform width from new
weights at the same MACs (where the budget counts parameters: with as many of those), one for all arms that are within
2 %; the dense network trained in the same rounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from torchbonsai.study.arms import EQUAL_EPOCHS, Material
from torchbonsai.study.fairness import costliest
from torchbonsai.study.recipes.chain import Chain, Draft, spent
from torchbonsai.study.recipes.kit import Cut, Kit, Length, look_at
from torchbonsai.study.recipes.longer import longer
from torchbonsai.study.recipes.sizes import Group, Sizes, groups, sizes
from torchbonsai.study.record import Arm, Unit
from torchbonsai.study.runs import Finished
from torchbonsai.study.stage import Stage


class Iterative:
    """A recipe in rounds. Subclasses say what starts, what cuts, and what was found."""

    name: ClassVar[str]
    method: ClassVar[str]
    config: ClassVar[type[Any]]
    unit: ClassVar[Unit] = "macs"

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    # ------------------------------------------------------------------ what a recipe says
    def look(self, settings: Any) -> tuple[Material, dict[str, str]]:
        """The model and the data."""
        return look_at(settings)

    def more_data(self, kit: Kit) -> dict[str, str]:
        """Nothing beside the target."""
        return {}

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of what scores: of the settings, where a recipe leaves it open."""
        return tuple(self.settings.methods)

    @property
    def reached(self) -> str:
        """What stands in the column of budgets."""
        return str(self.settings.budget)

    @property
    def before(self) -> tuple[float, ...]:
        """Epochs of the trainings before the first cut, in every arm."""
        return ()

    def starts(self, kit: Kit, seed: int) -> dict[str, Stage]:
        """Name of a start -> the network that it is."""
        raise NotImplementedError

    def cut(self, kit: Kit, method: str, seed: int, model: Stage, number: int) -> Stage:
        """The stage that cuts `model` in round `number`, counted from 0 without those that cut nothing."""
        raise NotImplementedError

    # ------------------------------------------------------------------ the arms
    def chains(self, kit: Kit, finished: Finished) -> Sequence[Chain | Draft]:
        """The arms, random channels and the dense networks first; then what follows from widths and from costs."""
        pruned = [
            self._pruned(kit, self._arm(kit, start, method), begin, seed, self._lengths())
            for seed in self.settings.seeds
            for start, begin in self.starts(kit, seed).items()
            for method in self.methods
        ]
        chosen = pruned if self.settings.weights != "reinitialise" else []  # new weights know of no choice of channels
        first = [*pruned, *(self._random(kit, c) for c in chosen if c.arm.method != "random"), *self._dense(kit)]
        if not _done(first, finished):
            return first
        equal = first + self._from_new(kit, pruned, finished)
        if not self.settings.equal_compute or not _done(equal, finished):
            return equal
        return [*equal, *self._equal_compute(kit, pruned, equal, finished)]

    def _arm(self, kit: Kit, start: str, method: str = "", control: str = "") -> Arm:
        """Under equal epochs. What was trained elsewhere, of a checkpoint or a library, is never counted."""
        free = start == "pretrained" and (kit.material.source is None or kit.material.source.data is None)
        return Arm(start, method, control, self.reached, EQUAL_EPOCHS, source_counted=not free)

    def _lengths(self) -> list[Length]:
        s = self.settings
        return [*((epochs, None) for epochs in self.before), *[(s.round_epochs, s.rate_of_rounds)] * s.rounds]

    def _pruned(self, kit: Kit, arm: Arm, start: Stage, seed: int, lengths: Sequence[Length]) -> Chain:
        warm = len(self.before)
        before = kit.steps(start, None, lengths[:warm], seed, f"{arm.start_name} dense")
        begin = before[-1].trained if before else start
        cut = self._of_round(kit, arm.method, seed)
        steps = kit.steps(begin, cut, lengths[warm:], seed, f"{arm.start_name} {arm.method}", warm)
        return kit.chain(arm, seed, start, (*before, *steps))

    def _random(self, kit: Kit, like: Chain) -> Chain:
        return kit.random_like(like, self._lengths(), len(self.before), self.settings.weights)

    def _dense(self, kit: Kit) -> list[Chain]:
        """The dense network from every start, trained in the same rounds."""
        return [
            kit.chain(
                self._arm(kit, name, control="dense"),
                seed,
                start,
                kit.steps(start, None, self._lengths(), seed, f"{name} dense"),
            )
            for seed in self.settings.seeds
            for name, start in self.starts(kit, seed).items()
        ]

    def _from_new(self, kit: Kit, pruned: Sequence[Chain], finished: Finished) -> list[Chain]:
        """The last shapes with new weights, and uniform widths of the arms' sizes."""
        length = sum(epochs for epochs, _ in self._lengths())
        renewed = [(c.seed, *kit.reinitialised(c, of)) for c, of in _shapes(pruned, finished)]
        renewed += self._uniform(kit, groups(self._sizes(pruned, finished)))
        return [kit.one_training(arm, seed, start, length) for seed, arm, start in renewed]

    @property
    def _matched(self) -> Literal["macs", "params"]:
        """What a uniform width has as much of as the arm that it belongs to."""
        return "params" if self.unit == "params" else "macs"

    def _sizes(self, pruned: Iterable[Chain], finished: Finished) -> Sizes:
        return sizes(pruned, self._matched, finished)

    def _uniform(self, kit: Kit, found: Sequence[Group]) -> list[tuple[int, Arm, Stage]]:
        """(seed, arm, start) of every control of uniform width; it says whose it is where there are several."""
        return [
            (seed, *kit.uniform(self.reached, seed, share, self._matched, g.arms if len(found) > 1 else ()))
            for g in found
            for seed, share in g.share.items()
        ]

    # ------------------------------------------------------------------ equal compute
    def _equal_compute(
        self, kit: Kit, pruned: Sequence[Chain], equal: Sequence[Chain], finished: Finished
    ) -> list[Chain | Draft]:
        """Every arm with the training MACs of the costliest; the dense controls have no say in that total."""
        total = costliest(spent(c, finished) for c in equal if c.arm.control != "dense")
        chance = {(c.seed, replace(c.arm, control="")): c for c in equal if c.arm.control == "random-widths"}
        found: list[Chain | Draft] = []
        for like in (*pruned, *(c for c in equal if c.arm.control == "dense")):
            for counted in (True, False) if spent(like, finished).source else (like.arm.source_counted,):
                own = longer(kit, like, self._of_round(kit, like.arm.method, like.seed), total, finished, counted)
                found.append(own)
                follower = chance.get((like.seed, like.arm))
                if follower is not None and isinstance(own, Chain):
                    drawn = kit.random_cut(own, self.settings.weights)
                    found.append(longer(kit, follower, drawn, total, finished, counted))
        if not all(isinstance(c, Chain) for c in found) or not _done(found, finished):
            return found
        return [*found, *self._spending_all(kit, [c for c in found if isinstance(c, Chain)], equal, total, finished)]

    def _spending_all(
        self, kit: Kit, found: Sequence[Chain], equal: Sequence[Chain], total: int, finished: Finished
    ) -> list[Chain | Draft]:
        """The controls from new weights, each one training for all of the total.

        A uniform width of equal epochs is taken again by every arm that is still of its size.
        """
        own = {(c.seed, c.arm.start, c.arm.method): c for c in reversed(found) if c.arm.control == ""}
        starts = [(c.seed, *kit.reinitialised(c, of), c.network) for c, of in _shapes([*own.values()], finished)]
        before = groups(self._sizes((c for c in equal if c.arm.control == ""), finished))
        uniform = self._uniform(kit, groups(self._sizes(own.values(), finished), before))
        unknown = tuple(start for _, _, start in uniform if start.spec not in finished)
        if unknown:
            return [Draft(unknown)]
        starts += [(seed, arm, start, start) for seed, arm, start in uniform]
        return [
            kit.spending_all(arm, seed, start, finished[sized.spec].result["network"]["macs"], total)
            for seed, arm, start, sized in starts
        ]

    def _of_round(self, kit: Kit, method: str, seed: int) -> Cut:
        """The cut of a round, and what becomes of the weights."""
        warm, weights = len(self.before), self.settings.weights
        return lambda model, number: kit.renewed(self.cut(kit, method, seed, model, number - warm), weights, seed)


def _done(chains: Sequence[Chain | Draft], finished: Finished) -> bool:
    return all(chain.done(finished) for chain in chains)


def _shapes(chains: Sequence[Chain], finished: Finished) -> list[tuple[Chain, str]]:
    """Whose last shapes are trained from new weights, and the start to name: one chain a seed, and no start, where all
    starts end in the same shapes, as under one share for every layer."""
    found: list[tuple[Chain, str]] = []
    for method in dict.fromkeys(c.arm.method for c in chains):
        mine = [c for c in chains if c.arm.method == method]
        widths = [finished[c.network.spec].result["network"]["widths"] for c in mine]
        first = {c.seed: n for n, c in reversed([*enumerate(mine)])}
        alike = all(width == widths[first[c.seed]] for c, width in zip(mine, widths, strict=True))
        found += [(mine[n], "") for n in sorted(first.values())] if alike else [(c, c.arm.start) for c in mine]
    return found
