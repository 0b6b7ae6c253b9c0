"""Network Trimming (Hu, Peng, Tai, Tang; arXiv 1607.03250): trim what is zero too often, retrain, repeat.

The method section
1. Train the network conventionally.
2. On many images, measure APoZ, the average percentage of zeros of every neuron and channel after its ReLU.
3. Remove those whose APoZ exceeds the mean of their layer by one standard deviation, or is 1. Only a few layers are
   trimmed at a time, beginning with those whose mean APoZ is high.
4. The smaller network keeps the surviving weights and is retrained.
5. Repeat 2 to 4 until the network is small enough.

Of the paper itself only the abstract could be read: APoZ, the threshold, the few layers at a time and the inherited
weights are as secondary sources give them, notes and implementations by others.

Controls: the dense network retrained equally long; random channels with the same counts in every round; the final shape
with new weights; uniform width from new weights with as many parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean as mean
from typing import Any, ClassVar

from torchbonsai.study.arms import EQUAL_COMPUTE, EQUAL_EPOCHS, Material
from torchbonsai.study.recipes.iterative import Iterative
from torchbonsai.study.recipes.kit import Kit, check_only
from torchbonsai.study.recipes.narrow import narrowest
from torchbonsai.study.recipes.settings import RoundSettings
from torchbonsai.study.recipes.words import gap, smaller
from torchbonsai.study.record import RunRecord, Unit
from torchbonsai.study.settings import Settings, share_of, wrong
from torchbonsai.study.stage import Stage
from torchbonsai.study.stages.prune import Trim

TRIMMED = {"lenet": ("conv2", "fc1")}
"""Which layers the paper trims in networks of our zoo; from memory."""

VGG16 = ((512, 4096), (488, 3477), (451, 2937), (430, 2479), (420, 2121), (400, 1787), (390, 1513))
"""The schedule of VGG-16 on ImageNet as a secondary source gives it, an implementation by others: widths of CONV5-3 and
FC6, from the dense network on."""


@dataclass(frozen=True)
class NetworkTrimming(RoundSettings):
    """Trim channels and neurons that are zero too often (APoZ), retrain, and repeat; with four controls.

    The paper's, as secondary sources give it, for only its abstract could be read: APoZ, mean + 1 standard deviation,
    few layers at a time (LeNet: conv2 and fc1, from memory), surviving weights kept, several rounds. Ours: all training
    settings, how long, and that APoZ is measured on training images.

    Attributes:
        deviations: Above the mean of a layer, in standard deviations, from which a channel goes; one that is always
            zero goes in any case. Default: 1.
        budget: Instead of the outlier rule: parameters to keep after the last round (3.8x), the same share a round, in
            one ranking of all modules that are trimmed.
        only: Modules that are trimmed. Default: those of the paper in its LeNet, else `layers` of them, or with a
            budget all.
        layers: Where `only` is empty, without a budget: so many layers a round, of those that can lose a channel those
            with the highest mean APoZ. Default: 2.
    """

    model: str = "lenet"
    data: str = "mnist"
    out: str = "bonsai-out/network-trimming"
    lr: float = 0.05
    warmup_epochs: float = 0.2
    min_channels: int | float = 2
    deviations: float | None = None
    budget: str | None = None
    only: tuple[str, ...] = ()
    layers: int | None = None

    usual_layers: ClassVar[int] = 2
    lists: ClassVar[tuple[str, ...]] = ("only", *Settings.lists)
    numbers: ClassVar[tuple[str, ...]] = ("deviations", *RoundSettings.numbers)

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers below one, a budget that is none, and for settings that exclude each other."""
        super().__post_init__()
        if self.budget is not None:
            share_of(self.budget)
            if self.deviations is not None or self.layers is not None:
                must = "deviations and layers are of the outlier rule, a budget is instead of it: give one or the other"
                raise wrong(must, f"budget={self.budget}, deviations={self.deviations}, layers={self.layers}")
            return
        for name, usual in (("deviations", 1.0), ("layers", self.usual_layers)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, usual)
        if self.layers < 1 or self.deviations < 0:  # type: ignore[operator]  # neither is None now
            raise wrong("layers must be at least 1, deviations at least 0", f"{self.layers}, {self.deviations}")
        if self.trimmed and self.layers != self.usual_layers:
            must = f"layers chooses among all modules, but {', '.join(self.trimmed)} are named: give one or the other"
            raise wrong(must, f"layers={self.layers}")

    @property
    def trimmed(self) -> tuple[str, ...]:
        """The modules that are trimmed; none: the `layers` with the highest mean APoZ in each round."""
        return self.only or TRIMMED.get(self.model, ())


class Recipe(Iterative):
    """The arms of network trimming."""

    name: ClassVar[str] = "network-trimming"
    config: ClassVar[type[NetworkTrimming]] = NetworkTrimming
    unit: ClassVar[Unit] = "params"
    method: ClassVar[str] = (
        "Hu, Peng, Tai, Tang: Network Trimming, arXiv 1607.03250. The paper's, as secondary sources give it, for only "
        "its abstract could be read: APoZ after the ReLU, the threshold of mean + 1 standard deviation of the layer, "
        "few layers at a time (in LeNet conv2 and fc1, from memory), surviving weights kept, trimming and retraining "
        "repeated. Ours: optimiser, learning rates and lengths, which the sources that were read do not give; APoZ on "
        "training images, since the paper's validation set is its test set; the floor of channels; the choice of "
        "layers in networks that the paper does not have; all controls but the one with new weights; both fairnesses."
    )
    methods = ("apoz",)

    @property
    def reached(self) -> str:
        """The budget, or after how many rounds."""
        return self.settings.budget or f"{self.settings.rounds}-rounds"

    def look(self, settings: Any) -> tuple[Material, dict[str, str]]:
        """The model and the data; the names of modules against the model."""
        material, places = super().look(settings)
        check_only(material, settings.trimmed)
        return material, places

    def starts(self, kit: Kit, seed: int) -> dict[str, Stage]:
        """Step 1: the network is trained conventionally."""
        return {"trained": kit.train(kit.new(seed), self.settings.start_epochs, seed, f"dense network, seed {seed}")}

    def cut(self, kit: Kit, method: str, seed: int, model: Stage, number: int) -> Stage:
        """Steps 2 and 3: measure APoZ, remove the outliers; or, with a budget, the lowest ranked."""
        s, data = self.settings, kit.material.target
        label = f"trimming, round {number + 1}, seed {seed}"
        if s.budget is None:
            trim = Trim(data, seed, kit.settings.numerics, s.deviations, s.trimmed, s.layers, s.min_channels)
            trim = replace(trim, score_images=s.score_images, hold_out=s.held_out, round_to=s.round_to)
            return Stage(trim, {"model": model}, label)
        share = share_of(s.budget) ** ((number + 1) / s.rounds)
        lowest = kit.prune(method, share, seed)
        return Stage(replace(lowest, of="params", only=s.trimmed), {"model": model}, label)

    def sentences(self, records: Sequence[RunRecord]) -> list[str]:
        """How much smaller, and at what cost in accuracy against the dense network trained as much; what was zero."""
        found = [
            f"Under {fairness}, trimming left {smaller(here, 'params')} and {smaller(here, 'macs')}, at "
            f"{gap(here, '', 'dense')} of test accuracy against the dense network trained as much."
            for fairness in (EQUAL_EPOCHS, EQUAL_COMPUTE)
            if (here := [r for r in records if r.arm.fairness == fairness])
        ]
        zeros = [s for f in (EQUAL_EPOCHS, EQUAL_COMPUTE) for s in _zeros(records, f)]
        return [*found, *zeros, *narrowest(records, self.settings)]


def _zeros(records: Sequence[RunRecord], fairness: str) -> list[str]:
    """The mean APoZ of every layer that was scored before the first and before the last cut, in all seeds."""
    own = [r for r in records if (r.arm.control, r.arm.fairness) == ("", fairness)]
    known = [[s["apoz"] for s in r.scored if "apoz" in s] for r in own]
    known = [rounds for rounds in known if rounds]
    if not known:
        return []
    layers = [n for n in known[0][0] if all(n in rounds[k] for rounds in known for k in (0, -1))]
    told = ", ".join(
        f"{n} " + " / ".join(f"{mean(rounds[k][n]['mean'] for rounds in known):.2f}" for k in (0, -1)) for n in layers
    )
    return [
        f"Mean APoZ by layer under {fairness}, before the first cut / before the last: {told} (means over "
        f"{len(known)} seed{'s' * (len(known) > 1)})."
    ]
