"""An Experimental Study of the Impact of Pre-training on the Pruning of a CNN (Hubens et al., APPIS 2020).

The method section
1. Two networks of one architecture: one pre-trained on a large source and fine-tuned on the target, one trained on the
   target from random weights ("from scratch").
2. Both are pruned alike, filter by filter, in rounds: a share of the filters of every layer goes, the rest is trained
   on.
3. Compare accuracy against parameters, and how far each can be pruned before it falls more than a tolerance below its
   own dense accuracy.

Controls: random channels with the same counts in every round, the last shapes retrained from new weights, uniform width
from new weights, both dense networks trained in the same rounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from torchbonsai.core.config import added_later
from torchbonsai.models.build import of_classes
from torchbonsai.study.arms import EQUAL_COMPUTE, EQUAL_EPOCHS, Material, Source
from torchbonsai.study.config import SOURCES
from torchbonsai.study.look import check_head, doubt, source_of
from torchbonsai.study.recipes.equal import Removed, at_own_drop, difference
from torchbonsai.study.recipes.iterative import Iterative
from torchbonsai.study.recipes.kit import Kit, look_at
from torchbonsai.study.recipes.narrow import narrowest
from torchbonsai.study.recipes.settings import RoundSettings, check_methods
from torchbonsai.study.recipes.words import at_tolerances, points, shares
from torchbonsai.study.record import RunRecord, Unit
from torchbonsai.study.settings import Settings, share_of, wrong
from torchbonsai.study.stage import Stage
from torchbonsai.study.stages.start import FreshHead, LibraryWeights, NewWeights, library_with

WEIGHTS = "weights"


@dataclass(frozen=True)
class PretrainingImpact(RoundSettings):
    """Prune a network that was pre-trained and fine-tuned, and one trained from scratch, alike: which loses more?

    The paper's: the two networks, pruned the same way; VGG16 and MobileNet; CIFAR-10, CIFAR-100, SVHN, Caltech-101;
    ImageNet as the source. Ours: everything else, for only the abstract could be read: filters by their L1 norm, a
    tenth of every layer a round, the rounds, the tolerance, all training settings, controls and fairness; and a
    smaller source, where no ImageNet weights are given. The command runs VGG16 and MobileNet v2, one study each on
    CIFAR-10, where none of --model, --data and --source is given.

    Attributes:
        source: Of the pretrained network: a data set, a checkpoint file, or `weights`: what the authors of the
            library's model (timm:, torchvision:, hf:) trained. Default: the usual source of the data set.
        source_epochs: Training on a source data set; default: as start_epochs.
        start_epochs: Training on the target before the first cut: fine-tuning, or training from scratch.
        share: Of the filters of every layer that are left, how many go in a round. Default: 0.1.
        methods: What scores.
        tolerance: How far validation accuracy may fall below that of the start's own dense network after as many rounds
            (0.01 is a point).
        budget: Instead of share: filters of every layer to keep after the last round (4x: a quarter), the same share a
            round.
    """

    model: str = "vgg16_bn"
    data: str = "cifar10"
    out: str = "bonsai-out/pretraining-impact"
    augment: tuple[str, ...] = ("crop", "flip")
    source: str | None = None
    source_epochs: float | None = None
    start_epochs: float = 40.0
    rounds: int = 12
    round_epochs: float = 4.0
    min_channels: int | float = 2
    share: float | None = None
    methods: tuple[str, ...] = ("l1",)
    tolerance: float = 0.01
    budget: str | None = added_later(None)

    usual: ClassVar[tuple[tuple[str, str], ...]] = (("vgg16_bn", "cifar10"), ("mobilenet_v2", "cifar10"))
    usual_share: ClassVar[float] = 0.1
    either: ClassVar[tuple[str, ...]] = ("share", "budget")
    lists: ClassVar[tuple[str, ...]] = ("methods", *Settings.lists)
    numbers: ClassVar[tuple[str, ...]] = ("source_epochs", "share", "tolerance", *RoundSettings.numbers)

    def __post_init__(self) -> None:
        """Raises ConfigError for a method or a budget that is none, or numbers outside their range."""
        super().__post_init__()
        check_methods(self.methods)
        if self.budget is not None:
            share_of(self.budget)
        elif self.share is None:
            object.__setattr__(self, "share", self.usual_share)
        if (self.share is not None and not 0 < self.share < 1) or not 0 <= self.tolerance < 1:
            raise wrong("share must be within (0, 1), tolerance within [0, 1)", f"{self.share}, {self.tolerance}")
        if self.source == WEIGHTS and self.source_epochs is not None:
            raise wrong("source_epochs needs a source that is trained here, a data set", f"source={WEIGHTS}")

    @property
    def left(self) -> float:
        """Of the filters of every layer that are left, how many a round leaves."""
        if self.budget is not None:
            return share_of(self.budget) ** (1 / self.rounds)
        assert self.share is not None, "it has its default where there is no budget"
        return 1 - self.share


class Recipe(Iterative):
    """The arms of the impact of pre-training."""

    name: ClassVar[str] = "pretraining-impact"
    config: ClassVar[type[PretrainingImpact]] = PretrainingImpact
    unit: ClassVar[Unit] = "channels"
    method: ClassVar[str] = (
        "Hubens, Mancas, Decombas, Gosselin, Preda, Zaharia: impact of pre-training on pruning, APPIS 2020, arXiv "
        "2112.08227. The paper's: a network pre-trained on a large source (ImageNet) and fine-tuned against one "
        "trained from scratch, both pruned the same way; VGG16 and MobileNet; CIFAR-10, CIFAR-100, SVHN, Caltech-101. "
        "Only its abstract could be read. Ours: filters by L1 norm, the same share of every layer a round, rounds and "
        "lengths, the tolerance and that it is counted from the start's own dense network trained in the same rounds, "
        "all training settings, controls, fairness, and the source that is named here."
    )

    def look(self, settings: Any) -> tuple[Material, dict[str, str]]:
        """The model, the data, and the source."""
        material, places = look_at(settings)
        if settings.source == WEIGHTS:
            library_with(settings.model)
            check_head(material.model)
            return replace(material, source=Source()), places
        source, more = source_of(settings, material.model)
        return replace(material, source=source), {**places, **more}

    def more_data(self, kit: Kit) -> dict[str, str]:
        """Where the pretrained network is from."""
        name = self.settings.source or SOURCES[self.settings.data]
        return {"pretrained_on": f"the library's own {WEIGHTS}" if name == WEIGHTS else name} | doubt(self.settings)

    @property
    def reached(self) -> str:
        """How far the curve goes: the budget, or after how many rounds."""
        return self.settings.budget or f"{self.settings.rounds}-rounds"

    @property
    def before(self) -> tuple[float, ...]:
        """Step 1, its second half: fine-tuning, or training from scratch, for as long."""
        return (self.settings.start_epochs,)

    def starts(self, kit: Kit, seed: int) -> dict[str, Stage]:
        """Step 1: pre-trained on the source, and random weights."""
        return {"pretrained": self._pretrained(kit, seed), "untrained": kit.new(seed)}

    def _pretrained(self, kit: Kit, seed: int) -> Stage:
        m, source = kit.material, kit.material.source
        assert source is not None, "looked at before"
        if source.checkpoint:
            return kit.checkpoint(seed)
        if source.data is None:
            return Stage(LibraryWeights(m.model, m.target, seed), label=f"the library's weights, seed {seed}")
        new = NewWeights(of_classes(m.model, source.classes), source.data, seed, m.code)
        epochs = self.settings.source_epochs or self.settings.start_epochs
        begun = Stage(new, label=f"new weights for the source, seed {seed}")
        trained = kit.train(begun, epochs, seed, f"source training, seed {seed}", source.data)
        return Stage(FreshHead(m.target, m.model.classes, seed), {"model": trained}, f"fresh head, seed {seed}")

    def cut(self, kit: Kit, method: str, seed: int, model: Stage, number: int) -> Stage:
        """Step 2: the same share of the filters of every layer."""
        share = round(self.settings.left ** (number + 1), 9)
        config = replace(kit.prune(method, share, seed), scope="uniform", of="channels")
        return Stage(config, {"model": model}, f"{method}, round {number + 1}, seed {seed}")

    def sentences(self, records: Sequence[RunRecord]) -> list[str]:
        """Step 3, under each fairness."""
        found = [s for f in (EQUAL_EPOCHS, EQUAL_COMPUTE) for m in self.methods for s in self._found(records, f, m)]
        return found + narrowest(records, self.settings)

    def _found(self, records: Sequence[RunRecord], fairness: str, name: str) -> Iterator[str]:
        for counted in (True, False):
            here = [r for r in records if r.arm.fairness == fairness]
            own = [r for r in here if (r.arm.method, r.arm.control) == (name, "")]
            pretrained = [r for r in own if r.arm.start == "pretrained" and r.arm.source_counted == counted]
            if not pretrained:
                continue
            scratch = [r for r in own if r.arm.start == "untrained"]
            where = f"{name} under {fairness}{'' if counted else ', source training free'}"
            both = partial(at_own_drop, pretrained, scratch, here)
            yield self._sentence(where, *both(self.settings.tolerance))
            yield (
                f"{where}, parameters lost with other tolerances, pre-trained / from scratch: "
                f"{at_tolerances(both, 'params')}."
            )

    def _sentence(self, where: str, pretrained: Mapping[int, Removed], scratch: Mapping[int, Removed]) -> str:
        return (
            f"{where}: at most {self.settings.tolerance * 100:g} points of validation accuracy below its own dense "
            f"network after as many rounds the pre-trained network lost {shares(pretrained)}; the network from scratch "
            f"lost {shares(scratch)}. "
            f"Parameters lost, pre-trained minus from scratch: {points(difference(pretrained, scratch, 'params'))}."
        )
