"""What recipes are made of: the stages of a study, with its settings filled in, and the arithmetic of fairness."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torchbonsai.models.build import ModelConfig, build
from torchbonsai.models.sources import library_of
from torchbonsai.pruning.controls import restrict
from torchbonsai.pruning.prune import trace
from torchbonsai.study.arms import EQUAL_COMPUTE, EQUAL_EPOCHS, Material
from torchbonsai.study.fairness import stretched_epochs
from torchbonsai.study.methods import code_digest, method
from torchbonsai.study.numerics import check_device
from torchbonsai.study.recipes.chain import Chain, Step
from torchbonsai.study.recipes.settings import RecipeSettings
from torchbonsai.study.record import Arm
from torchbonsai.study.stage import Stage
from torchbonsai.study.stages.images import Images, epoch_of, example, found
from torchbonsai.study.stages.measure import Evaluate, Time, Validate
from torchbonsai.study.stages.prune import Prune, RandomWidths, Trim
from torchbonsai.study.stages.renew import Reinitialise, Rewind
from torchbonsai.study.stages.start import Checkpoint, NewWeights, Uniform
from torchbonsai.study.stages.train import Train
from torchbonsai.training.policy import WeightPolicy

Cut = Callable[[Stage, int], Stage]
"""(the network before the cut, the round's number from 0) -> the stage that cuts it."""
Length = tuple[float, float | None]
"""Of a training: its epochs, and its learning rate; None: the study's."""


def check_only(material: Material, only: tuple[str, ...]) -> None:
    """Raises ConfigError for a name or pattern of no module, before anything is trained."""
    if only:
        model = build(material.model, seed=0)
        restrict(trace(model, example(material.splits)), model, (), only)


def look_at(settings: RecipeSettings) -> tuple[Material, dict[str, str]]:
    """Read the data and build the model once, so that what cannot work fails before anything is written.

    Returns the material, and the places where its content lies. Raises DataError or ConfigError.
    """
    check_device(settings.device, settings.devices)
    target, splits, places = found(settings.data_config)
    library = library_of(settings.model)
    options = {} if library is None else {**library[0].structure(library[1]), library[0].classes_option: splits.classes}
    named = tuple((k, v) for k, v in options.items() if k)
    model = ModelConfig(settings.model, splits.in_shape, splits.classes, settings.width, options=named)
    build(model, seed=0)
    code = code_digest(settings.model) if ":" in settings.model and library is None else ""
    epoch = epoch_of(splits, settings.training(1.0, 0), settings.held_out)
    return Material(model, target, splits, epoch, None, code), places


@dataclass(frozen=True, eq=False)
class Kit:
    """Stages of one study."""

    settings: RecipeSettings
    material: Material

    def new(self, seed: int) -> Stage:
        """New weights."""
        m = self.material
        return Stage(NewWeights(m.model, m.target, seed, m.code), label=f"new weights, seed {seed}")

    def checkpoint(self, seed: int) -> Stage:
        """The weights of the checkpoint that the material's source is."""
        m = self.material
        assert m.source is not None, "looked at before"
        config = Checkpoint(m.model, m.target, seed, m.source.checkpoint, m.code)
        return Stage(config, label=f"checkpoint, seed {seed}")

    def train(
        self,
        parent: Stage,
        epochs: float,
        seed: int,
        label: str,
        data: Images | None = None,
        lr: float | None = None,
    ) -> Stage:
        """Train what `parent` leaves, on the target and at the study's learning rate unless said otherwise."""
        target, held = (self.material.target, self.settings.held_out) if data is None else (data, 0)
        training = self.settings.training(epochs, seed)
        training = training if lr is None else replace(training, lr=lr)
        config = Train(target, training, self.settings.numerics, held)
        return Stage(config, {"model": parent}, label)

    def validate(self, parent: Stage, label: str, recalibrate: int = 0) -> Stage:
        """The validation accuracy of what `parent` leaves; with its batch norms taken anew on so many images."""
        return Stage(Validate(self.material.target, self.settings.numerics, recalibrate), {"model": parent}, label)

    def steps(
        self, start: Stage, cut: Cut | None, lengths: Sequence[Length], seed: int, name: str, first: int = 0
    ) -> tuple[Step, ...]:
        """Rounds one after the other: `cut` (None: nothing is), then a training of each length.

        first: the number of the first round. The order of images differs from round to round, and is the same in all
        arms of a seed.
        """
        made: list[Step] = []
        model = start
        for number, (epochs, lr) in enumerate(lengths, start=first):
            made.append(self.step(cut(model, number) if cut else None, model, epochs, seed, name, number, lr=lr))
            model = made[-1].trained
        return tuple(made)

    def chain(self, arm: Arm, seed: int, start: Stage, steps: tuple[Step, ...], total: int | None = None) -> Chain:
        """The arm, with its test after the last round, and its latency."""
        target, numerics = self.material.target, self.settings.numerics
        where = f"{arm.start_name} {arm.name}, seed {seed}"
        tested = Stage(Evaluate(target, numerics), {"model": steps[-1].trained}, f"testing {where}")
        # Weights do not change the time: a network is timed before its last training.
        whole = self.new(seed) if arm.control == "dense" else start
        network = next((s.cut for s in reversed(steps) if s.cut is not None), whole)
        timed = Stage(Time(target, numerics), {"model": network}, f"timing {where}")
        return Chain(arm, seed, start, steps, tested, timed, total)

    def prune(self, name: str, share: float, seed: int) -> Prune:
        """The config of a cut by the method of that name to `share` of the dense MACs, one ranking over all groups."""
        s = self.settings
        config = Prune(self.material.target, method(name), share, seed, s.numerics, "global", s.round_to)
        return replace(config, min_channels=s.min_channels, score_images=s.score_images, hold_out=s.held_out)

    def renewed(self, cut: Stage, weights: WeightPolicy, seed: int) -> Stage:
        """What the network of `cut` is trained from: its weights as they are, rewound to those of right before the
        first of its cuts, or new."""
        if weights == "rewind":
            return Stage(Rewind(), {"model": cut, "early": _uncut(cut)}, f"rewound: {cut.label}")
        return cut if weights == "keep" else Stage(Reinitialise(seed), {"model": cut}, f"new weights: {cut.label}")

    def random_like(
        self, like: Chain, lengths: Sequence[Length], warm: int = 0, weights: WeightPolicy = "keep"
    ) -> Chain:
        """The same counts as `like` in every round, channels drawn at random. warm: rounds that cut nothing."""
        before = like.steps[:warm]
        begin = before[-1].trained if before else like.start
        name = f"random channels for {like.arm.name}"
        steps = self.steps(begin, self.random_cut(like, weights), lengths[warm:], like.seed, name, warm)
        return self.chain(replace(like.arm, control="random-widths"), like.seed, like.start, (*before, *steps))

    def random_cut(self, like: Chain, weights: WeightPolicy = "keep") -> Cut:
        """Random channels, as many as `like` kept in the same round."""
        config = RandomWidths(self.material.target, like.seed, self.settings.numerics)

        def made(model: Stage, number: int) -> Stage:
            theirs = like.steps[number].cut
            assert theirs is not None, "it cuts where the other one cuts"
            cut = Stage(config, {"model": model, "like": theirs}, f"random channels, round {number + 1}")
            return self.renewed(cut, weights, like.seed)

        return made

    def reinitialised(self, like: Chain, shape_of: str = "") -> tuple[Arm, Stage]:
        """The control that has the last shape of `like` with new weights: its arm and its start."""
        arm = replace(like.arm, start="untrained", control="reinitialised", source_counted=True, shape_of=shape_of)
        label = f"new weights at the widths of {like.arm.start_name} {like.arm.name}, seed {like.seed}"
        return arm, Stage(Reinitialise(like.seed), {"model": like.network}, label)

    def uniform(
        self, budget: str, seed: int, share: float, of: Literal["macs", "params"] = "macs", fits: tuple[str, ...] = ()
    ) -> tuple[Arm, Stage]:
        """The control of uniform width from new weights: its arm and its start.

        share: of the dense network's MACs, or of what `of` says. fits: as in `Arm`.
        """
        m = self.material
        config = Uniform(m.model, m.target, share, seed, m.code, of)
        arm = Arm("untrained", "", "uniform-new", budget, EQUAL_EPOCHS, fits=fits)
        return arm, Stage(config, {"dense": self.new(seed)}, f"{arm.name}, seed {seed}")

    def one_training(self, arm: Arm, seed: int, start: Stage, epochs: float) -> Chain:
        """A network that is trained once and never cut."""
        return self.chain(
            arm, seed, start, self.steps(start, None, [(epochs, None)], seed, f"{arm.start_name} {arm.name}")
        )

    def spending_all(self, arm: Arm, seed: int, start: Stage, macs: int, total: int) -> Chain:
        """The same under equal compute: one training from new weights, for all of `total`. macs: of one image."""
        epochs = stretched_epochs(total, 0, macs, self.material.epoch)
        return replace(self.one_training(replace(arm, fairness=EQUAL_COMPUTE), seed, start, epochs), total=total)

    def step(
        self,
        cut: Stage | None,
        model: Stage,
        epochs: float,
        seed: int,
        name: str,
        number: int,
        look: bool = True,
        lr: float | None = None,
    ) -> Step:
        """One round: look right after the cut (unless its weights are new), train, look again."""
        where, images = f"{name}, round {number + 1}, seed {seed}", self.settings.score_images
        seen = cut if look else None
        after = self.validate(seen, f"validation right after the cut: {where}") if seen is not None else None
        again = self.validate(seen, f"validation, norms recalibrated: {where}", images) if seen is not None else None
        trained = self.train(cut or model, epochs, seed + 7919 * number, f"training {where}", lr=lr)
        return Step(cut, after, again, trained, self.validate(trained, f"validation: {where}"))


def _uncut(stage: Stage) -> Stage:
    """The network right before the first cut on the way to `stage`."""
    found = stage
    while "model" in stage.parents:
        if isinstance(stage.config, Prune | Trim | RandomWidths):
            found = stage.parents["model"]
        stage = stage.parents["model"]
    return found
