"""Network Trimming (Hu, Peng, Tai, Tang; arXiv 1607.03250): trim what is zero too often, retrain, repeat.

The method section
1. Train the network conventionally.
2. On many images, measure APoZ, the average percentage of zeros of every neuron and channel after its ReLU.
3. Remove those whose APoZ exceeds the mean of their layer by one standard deviation. Only a few layers are trimmed at a
   time, beginning with those whose mean APoZ is high.
4. The smaller network keeps the surviving weights and is retrained.
5. Repeat 2 to 4 until the network is small enough.

Controls: the dense network retrained equally long; random channels with the same counts in every round; the final shape
with new weights; uniform width from new weights at the same MACs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torchbonsai.study.arms import EQUAL_COMPUTE, EQUAL_EPOCHS
from torchbonsai.study.fairness import costliest
from torchbonsai.study.methods import Method
from torchbonsai.study.recipes.chain import Chain, spent
from torchbonsai.study.recipes.kit import Kit
from torchbonsai.study.recipes.words import gap, smaller
from torchbonsai.study.record import Arm, RunRecord
from torchbonsai.study.runs import Finished
from torchbonsai.study.settings import Settings, share_of, wrong
from torchbonsai.study.stage import Stage
from torchbonsai.study.stages.network import Network
from torchbonsai.study.stages.prune import Prune, RandomWidths, Trim
from torchbonsai.study.stages.renew import Reinitialise
from torchbonsai.study.stages.start import Uniform

TRIMMED = {"lenet": ("conv2", "fc1")}
"""Which layers the paper trims in networks of our zoo."""

VGG16 = ((512, 4096), (488, 3477), (451, 2937), (430, 2479), (420, 2121), (400, 1787), (390, 1513))
"""The published schedule of VGG-16 on ImageNet: widths of CONV5-3 and FC6, from the dense network on."""


@dataclass(frozen=True)
class NetworkTrimming(Settings):
    """Trim channels and neurons that are zero too often (APoZ), retrain, and repeat; with four controls.

    The paper's: APoZ, mean + 1 standard deviation, few layers at a time (LeNet: conv2 and fc1), surviving weights
    kept, several rounds. Ours: all training settings, how long, and that APoZ is measured on training images.

    Attributes:
        start_epochs: Training of the dense network, before the first round.
        rounds: Of trimming and retraining.
        round_epochs: Retraining after each trimming.
        deviations: Above the mean of a layer, in standard deviations, from which a channel goes.
        budget: Instead of the outlier rule: parameters to keep after the last round (3.8x), the same share a round.
        only: Modules that are trimmed. Default: those of the paper in its LeNet, else `layers` of them.
        layers: Where `only` is empty: so many layers a round, those with the highest mean APoZ.
        min_channels: No layer gets narrower than this.
    """

    model: str = "lenet"
    data: str = "mnist"
    out: str = "bonsai-out/network-trimming"
    lr: float = 0.05
    warmup_epochs: float = 0.2
    start_epochs: float = 8.0
    rounds: int = 4
    round_epochs: float = 4.0
    deviations: float = 1.0
    budget: str | None = None
    only: tuple[str, ...] = ()
    layers: int = 2
    min_channels: int = 2

    lists: ClassVar[tuple[str, ...]] = ("only", *Settings.lists)
    numbers: ClassVar[tuple[str, ...]] = ("start_epochs", "round_epochs", "deviations", *Settings.numbers)

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers below one and for a budget that is none."""
        super().__post_init__()
        for epochs in (self.start_epochs, self.round_epochs):
            self.training(epochs, 0)
        if min(self.rounds, self.layers, self.min_channels) < 1 or self.deviations < 0:
            raise wrong(
                "rounds, layers and min_channels must be at least 1, deviations at least 0",
                f"{self.rounds}, {self.layers}, {self.min_channels}, {self.deviations}",
            )
        if self.budget is not None:
            share_of(self.budget)

    @property
    def trimmed(self) -> tuple[str, ...]:
        """The modules that are trimmed; none: the `layers` with the highest mean APoZ in each round."""
        return self.only or TRIMMED.get(self.model, ())

    @property
    def reached(self) -> str:
        """What stands in the column of budgets."""
        return self.budget or f"{self.rounds}-rounds"


class Recipe:
    """The arms of network trimming."""

    name: ClassVar[str] = "network-trimming"
    config: ClassVar[type[Settings]] = NetworkTrimming
    method: ClassVar[str] = (
        "Hu, Peng, Tai, Tang: Network Trimming, arXiv 1607.03250. The paper's: APoZ after the ReLU, the threshold of "
        "mean + 1 standard deviation of the layer, few layers at a time (in LeNet conv2 and fc1), surviving weights "
        "kept, trimming and retraining repeated. Ours: optimiser, learning rates and lengths, which the sources that "
        "were read do not give; APoZ on training images, since the paper's validation set is its test set; the floor "
        "of channels; the choice of layers in networks that the paper does not have; all controls but the one with "
        "new weights; both fairnesses."
    )

    def __init__(self, settings: NetworkTrimming) -> None:
        self.settings = settings

    def chains(self, kit: Kit, finished: Finished) -> list[Chain]:
        """Trimmed, random channels and dense first; then what follows from the widths and from what was spent."""
        trimmed = {seed: self._trimmed(kit, seed) for seed in kit.settings.seeds}
        first = [
            c for seed, chain in trimmed.items() for c in (chain, self._random(kit, chain), self._dense(kit, seed))
        ]
        if not all(c.done(finished) for c in first):
            return first
        equal = first + [c for chain in trimmed.values() for c in self._from_new(kit, chain, finished)]
        if not all(c.done(finished) for c in equal):
            return equal
        return equal + self._equal_compute(kit, equal, finished)

    def _start(self, kit: Kit, seed: int) -> Stage:
        return kit.train(kit.new(seed), self.settings.start_epochs, seed, f"dense network, seed {seed}")

    def _lengths(self) -> list[float]:
        return [self.settings.round_epochs] * self.settings.rounds

    def _arm(self, control: str, start: str = "trained") -> Arm:
        method = "apoz" if control in ("", "random-widths", "reinitialised") else ""
        return Arm(start, method, control, self.settings.reached, EQUAL_EPOCHS)

    def _trimmed(self, kit: Kit, seed: int) -> Chain:
        """Steps 2 to 5: score, trim, retrain the survivors, again."""
        start = self._start(kit, seed)
        steps = kit.steps(start, lambda model, n: self._cut(kit, model, n, seed), self._lengths(), seed, "trimmed")
        return kit.chain(self._arm(""), seed, start, steps)

    def _cut(self, kit: Kit, model: Stage, number: int, seed: int) -> Stage:
        s, data, numerics = self.settings, kit.material.target, kit.settings.numerics
        label = f"trimming, round {number + 1}, seed {seed}"
        if s.budget is None:
            config = Trim(data, seed, numerics, s.deviations, s.trimmed, s.layers, s.min_channels, s.score_images)
            return Stage(config, {"model": model}, label)
        share = share_of(s.budget) ** ((number + 1) / s.rounds)
        score = Prune(data, Method("apoz"), share, seed, numerics, "global", s.round_to, s.min_channels, s.score_images)
        return Stage(replace(score, of="params", only=s.trimmed), {"model": model}, label)

    def _random(self, kit: Kit, like: Chain) -> Chain:
        """The same counts in every round, channels drawn at random."""
        config = RandomWidths(kit.material.target, like.seed, kit.settings.numerics)

        def cut(model: Stage, number: int) -> Stage:
            trimmed = like.steps[number].cut
            assert trimmed is not None
            return Stage(config, {"model": model, "like": trimmed}, f"random channels, round {number + 1}")

        steps = kit.steps(like.start, cut, self._lengths(), like.seed, "random channels")
        return kit.chain(self._arm("random-widths"), like.seed, like.start, steps)

    def _dense(self, kit: Kit, seed: int) -> Chain:
        """The dense network, retrained in the same rounds."""
        start = self._start(kit, seed)
        steps = kit.steps(start, None, self._lengths(), seed, "dense")
        return kit.chain(self._arm("dense"), seed, start, steps)

    def _from_new(self, kit: Kit, trimmed: Chain, finished: Finished) -> list[Chain]:
        """The final shape with new weights, and a uniform width at its MACs; trained as long as all rounds."""
        network, seed, m = Network.of(finished[trimmed.network.spec]), trimmed.seed, kit.material
        anew = Stage(Reinitialise(seed), {"model": trimmed.network}, f"new weights at the trimmed widths, seed {seed}")
        share = network.macs / network.dense_macs
        uniform = Stage(Uniform(m.model, m.target, share, seed, m.code), {"dense": kit.new(seed)}, "uniform width")
        length = [sum(self._lengths())]
        return [
            kit.chain(self._arm(control, "untrained"), seed, start, kit.steps(start, None, length, seed, control))
            for control, start in (("reinitialised", anew), ("uniform-new", uniform))
        ]

    def _equal_compute(self, kit: Kit, equal: Sequence[Chain], finished: Finished) -> list[Chain]:
        """Every arm with the training MACs of the costliest; the dense control has no say in that total."""
        small = [c for c in equal if c.arm.control != "dense"]
        total = costliest(spent(c, finished) for c in small)
        stretched = [kit.stretched(c, total, finished) for c in small]
        return stretched + [kit.dense_for(s, self.settings.reached, total, finished) for s in kit.settings.seeds]

    def sentences(self, records: Sequence[RunRecord]) -> list[str]:
        """How much smaller, and at what cost in accuracy against the dense network trained as much."""
        return [
            f"Under {fairness}, trimming left {smaller(found, 'params')} and {smaller(found, 'macs')}, at "
            f"{gap(found, '', 'dense')} of test accuracy against the dense network trained as much."
            for fairness in (EQUAL_EPOCHS, EQUAL_COMPUTE)
            if (found := [r for r in records if r.arm.fairness == fairness])
        ]
