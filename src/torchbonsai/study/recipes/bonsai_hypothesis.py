"""The Bonsai Hypothesis (Ito, Nakano, Kasagi; AIAI 2022): prune an untrained network, not a trained one.

The method section
1. Two starts: random weights, and the same network trained on the target set.
2. Both alike: train a while, score every channel, remove a share of those that are left, go on with the inherited
   weights, and again.
3. Compare how many channels each start has lost where their accuracies are equal; and, since what counts as equal is
   ours to choose, where each has lost as much of its own dense network's accuracy.

The claim is comparative, so any importance measure that is applied identically to both starts tests it; it is run with
three. Controls: random channels with the same counts in every round, the last shape retrained from new weights, the
dense network from both starts trained in the same rounds, uniform width from new weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from torchbonsai.study.arms import EQUAL_COMPUTE, EQUAL_EPOCHS
from torchbonsai.study.recipes.equal import (
    TOLERANCES,
    at_equal_accuracy,
    at_own_drop,
    difference,
    kept_by_layer,
    mean,
)
from torchbonsai.study.recipes.iterative import Iterative
from torchbonsai.study.recipes.kit import Kit
from torchbonsai.study.recipes.narrow import narrowest
from torchbonsai.study.recipes.settings import RoundSettings, check_methods
from torchbonsai.study.recipes.words import Lost, at_tolerances, points, shares, signs
from torchbonsai.study.record import RunRecord, Unit
from torchbonsai.study.settings import Settings, share_of, wrong
from torchbonsai.study.stage import Stage

EQUAL = "at equal accuracy"
DROP = "at an equal drop below its own dense network"


@dataclass(frozen=True)
class BonsaiHypothesis(RoundSettings):
    """Interleave training and channel removal, from an untrained and from a trained start; what is left at equal
    accuracy?

    The paper's: the two starts, one simple algorithm applied to both, VGG16 on CIFAR-10 and CIFAR-100, and the claim.
    Ours: everything else, for only the abstract could be read: the importance measures, the share of channels that
    goes in a round, all lengths and training settings, the tolerance, VGG16 with batch norm, controls and fairness.
    The command runs both sets, one study each, where neither --model nor --data is given.

    Attributes:
        methods: What scores; the finding is told for each. Names as in `bonsai compare`. Not bn-scale unless asked: on
            scales that nothing drives to zero, its first cut may leave a layer at the floor.
        min_channels: No group gets narrower than this: an int is a count, a float a share of its dense width, rounded
            up, but at least 2 channels: one ranking over all layers may else leave a layer one channel at once.
        budget: Channels to keep after the last round (4x: a quarter); every round removes the same share of what is
            left, in one ranking over all layers.
        tolerance: How far validation accuracy may lie below a dense network's after as many rounds (0.01 is a point):
            the worse one's (equal accuracy), and that of the start's own (equal drop).
    """

    model: str = "vgg16_bn"
    data: str = "cifar10"
    out: str = "bonsai-out/bonsai-hypothesis"
    augment: tuple[str, ...] = ("crop", "flip")
    start_epochs: float = 40.0
    rounds: int = 8
    round_epochs: float = 5.0
    min_channels: int | float = 0.05
    methods: tuple[str, ...] = ("l2", "taylor", "fpgm")
    budget: str = "4x"
    tolerance: float = 0.01

    usual: ClassVar[tuple[tuple[str, str], ...]] = (("vgg16_bn", "cifar10"), ("vgg16_bn", "cifar100"))
    lists: ClassVar[tuple[str, ...]] = ("methods", *Settings.lists)
    numbers: ClassVar[tuple[str, ...]] = ("tolerance", *RoundSettings.numbers)

    def __post_init__(self) -> None:
        """Raises ConfigError for a method or a budget that is none, or a tolerance outside [0, 1)."""
        super().__post_init__()
        check_methods(self.methods)
        share_of(self.budget)
        if not 0 <= self.tolerance < 1:
            raise wrong("tolerance must be within [0, 1)", str(self.tolerance))


class Recipe(Iterative):
    """The arms of the bonsai hypothesis."""

    name: ClassVar[str] = "bonsai-hypothesis"
    config: ClassVar[type[BonsaiHypothesis]] = BonsaiHypothesis
    unit: ClassVar[Unit] = "channels"
    method: ClassVar[str] = (
        "Ito, Nakano, Kasagi: The Bonsai Hypothesis, AIAI 2022. The paper's: pruning from an untrained and from a "
        "trained start by one and the same simple algorithm, VGG16, CIFAR-10 and CIFAR-100, and the claim that the "
        "untrained start loses more channels. Only its abstract could be read. Ours: the importance measures, the "
        "share of channels that goes in a round, the training between rounds, both levels of accuracy, batch "
        "norm in the network, all controls, both fairnesses."
    )

    @property
    def before(self) -> tuple[float, ...]:
        """Both starts are trained for a round before the first cut."""
        return (self.settings.round_epochs,)

    def starts(self, kit: Kit, seed: int) -> dict[str, Stage]:
        """Step 1: the same random weights, untrained and trained."""
        new = kit.new(seed)
        trained = kit.train(new, self.settings.start_epochs, seed, f"dense network, seed {seed}")
        return {"untrained": new, "trained": trained}

    def cut(self, kit: Kit, method: str, seed: int, model: Stage, number: int) -> Stage:
        """Step 2: a share of the channels that are left goes, those that score lowest."""
        share = share_of(self.settings.budget) ** ((number + 1) / self.settings.rounds)
        config = replace(kit.prune(method, share, seed), of="channels")
        return Stage(config, {"model": model}, f"{method}, round {number + 1}, seed {seed}")

    def sentences(self, records: Sequence[RunRecord]) -> list[str]:
        """Step 3, for every importance measure under each fairness: by both levels, and by layer."""
        found = [s for f in (EQUAL_EPOCHS, EQUAL_COMPUTE) for m in self.methods for s in self._found(records, f, m)]
        return found + narrowest(records, self.settings)

    def _found(self, records: Sequence[RunRecord], fairness: str, name: str) -> Iterator[str]:
        here = [r for r in records if r.arm.fairness == fairness]
        if not here:
            return
        where, own = f"{name} under {fairness}", [r for r in here if (r.arm.method, r.arm.control) == (name, "")]
        one, other = ([r for r in own if r.arm.start == start] for start in ("untrained", "trained"))
        equal: Lost = partial(at_equal_accuracy, one, other, here)
        drop: Lost = partial(at_own_drop, one, other, here)
        yield from self._lost(f"{where}, {EQUAL}", "the worse of the seed's dense networks", equal)
        yield from self._lost(f"{where}, {DROP}", "that network", drop)
        dense = own[0].dense_widths
        at = self._telling(equal)
        left, right = (kept_by_layer(found, dense) for found in equal(at))
        layers = ", ".join(f"{layer} {left[layer]:.0f} / {right[layer]:.0f} of {dense[layer]}" for layer in dense)
        yield f"{where}, channels left by layer {EQUAL} ({at * 100:g} points), untrained / trained: {layers}."
        yield (
            f"{where}, the sign of untrained minus trained (channels) where the 95% interval excludes zero: "
            f"{signs({EQUAL: equal, DROP: drop}, 'channels', {self.settings.tolerance, *TOLERANCES})}"
        )

    def _telling(self, lost: Lost) -> float:
        """The tolerance of the settings; where a start lost nothing within it, the next at which both lost channels,
        if there is one: whole layers beside whole layers say nothing."""
        own = self.settings.tolerance
        wider = [own, *(t for t in TOLERANCES if t > own)]
        return next((t for t in wider if all(mean(found, "channels") > 0 for found in lost(t))), own)

    def _lost(self, where: str, level: str, lost: Lost) -> Iterator[str]:
        """What both starts lost by one level, with the tolerance of the settings and with others."""
        untrained, trained = lost(self.settings.tolerance)
        yield (
            f"{where} (validation, at most {self.settings.tolerance * 100:g} points below {level} after as many "
            f"rounds) the untrained start had lost {shares(untrained)}; the trained start {shares(trained)}. Channels, "
            f"untrained minus trained: {points(difference(untrained, trained, 'channels'))}."
        )
        yield f"{where}, channels lost with other tolerances, untrained / trained: {at_tolerances(lost, 'channels')}."
