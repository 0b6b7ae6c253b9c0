"""From a config to stages: the starts, every method's arm, and the controls that are always in.

Seeds are paired: all arms of a seed share the dense network's first weights, the data order and the drawn channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

from torchbonsai.data.splits import Splits
from torchbonsai.models.build import ModelConfig, of_classes
from torchbonsai.study.config import CompareConfig, share_of
from torchbonsai.study.fairness import Epoch
from torchbonsai.study.methods import Method, method
from torchbonsai.study.record import Arm
from torchbonsai.study.stage import Stage
from torchbonsai.study.stages.images import Images
from torchbonsai.study.stages.prune import Prune, RandomWidths
from torchbonsai.study.stages.start import Checkpoint, FreshHead, NewWeights, Uniform
from torchbonsai.study.stages.train import Train

EQUAL_EPOCHS, EQUAL_COMPUTE = "equal-epochs", "equal-compute"
DIVERSITY = "diversity of widths"
"""Of arms that are compared by the widths they found, and are no candidates for the best network."""


@dataclass(frozen=True)
class Source:
    """Where a pretrained start is from: a data set, a checkpoint known by its digest, or (neither) a library's weights.

    What was trained elsewhere is free.
    """

    data: Images | None = None
    classes: int = 0
    checkpoint: str = ""


@dataclass(frozen=True, eq=False)
class Material:
    """What a comparison works on, looked at once before the stages are listed."""

    model: ModelConfig
    target: Images
    splits: Splits
    epoch: Epoch
    source: Source | None = None
    code: str = ""


@dataclass(frozen=True, eq=False)
class Cut:
    """A cut or remade network before its training, and which arm it is for."""

    arm: Arm
    seed: int
    start: Stage
    stage: Stage


@dataclass(frozen=True, eq=False)
class Arms:
    """The stages of a comparison up to its cut networks."""

    config: CompareConfig
    material: Material
    methods: tuple[Method, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Raises ConfigError for a method that nobody knows."""
        object.__setattr__(self, "methods", tuple(method(name) for name in self.config.methods))

    def start(self, start: str, seed: int) -> Stage:
        """The network that an arm starts from."""
        return {"untrained": self.untrained, "pretrained": self._pretrained, "trained": self._trained}[start](seed)

    def untrained(self, seed: int) -> Stage:
        m = self.material
        return Stage(NewWeights(m.model, m.target, seed, m.code), label=f"new weights, seed {seed}")

    def _trained(self, seed: int) -> Stage:
        epochs = self.config.epochs if self.config.start_epochs is None else self.config.start_epochs
        return self.training(self.untrained(seed), self.material.target, epochs, seed, "dense network")

    def _pretrained(self, seed: int) -> Stage:
        m, source = self.material, self.material.source
        assert source is not None, "checked before the stages are listed"
        if source.data is None:
            config = Checkpoint(m.model, m.target, seed, source.checkpoint, m.code)
            return Stage(config, label=f"checkpoint, seed {seed}")
        new = NewWeights(of_classes(m.model, source.classes), source.data, seed, m.code)
        epochs = self.config.epochs if self.config.source_epochs is None else self.config.source_epochs
        begun = Stage(new, label=f"new weights for the source, seed {seed}")
        trained = self.training(begun, source.data, epochs, seed, "source training")
        return Stage(FreshHead(m.target, m.model.classes, seed), {"model": trained}, f"fresh head, seed {seed}")

    def training(self, parent: Stage, data: Images, epochs: float, seed: int, label: str) -> Stage:
        """Train what `parent` leaves."""
        training = self.config.training(epochs, seed)
        return Stage(Train(data, training, self.config.numerics), {"model": parent}, f"{label}, seed {seed}")

    @cached_property
    def cuts(self) -> list[Cut]:
        """Every cut network and every uniform one, seed after seed."""
        return [n for seed in self.config.seeds for b in self.config.budgets for n in self._at(b, seed)]

    def _at(self, budget: str, seed: int) -> Iterator[Cut]:
        for start in self.config.starts:
            for chosen in self.methods:
                yield from self._cut(budget, seed, start, chosen)
        dense = self.untrained(seed)
        config = Uniform(self.material.model, self.material.target, share_of(budget), seed, self.material.code)
        arm = Arm("untrained", "", "uniform-new", budget, EQUAL_EPOCHS)
        yield Cut(arm, seed, dense, Stage(config, {"dense": dense}, label(arm, seed)))

    def _cut(self, budget: str, seed: int, start: str, chosen: Method) -> Iterator[Cut]:
        c, m = self.config, self.material
        begin = self.start(start, seed)
        arm = Arm(start, chosen.name, "", budget, EQUAL_EPOCHS, not self.free(start))
        config = Prune(
            m.target, chosen, share_of(budget), seed, c.numerics, c.scope, c.round_to, score_images=c.score_images
        )
        cut = Stage(config, {"model": begin}, label(arm, seed))
        yield Cut(arm, seed, begin, cut)
        if chosen.name != "random":  # random channels are their own control
            control = replace(arm, control="random-widths")
            like = Stage(RandomWidths(m.target, seed, c.numerics), {"model": begin, "like": cut}, label(control, seed))
            yield Cut(control, seed, begin, like)

    def free(self, start: str) -> bool:
        """A checkpoint's training is not known, so it is never counted."""
        return start == "pretrained" and self.material.source is not None and self.material.source.data is None


def label(arm: Arm, seed: int) -> str:
    """A run for people."""
    return f"{arm.start_name} {arm.name} at {arm.budget or 'all MACs'}, seed {seed}"
