"""What recipes are made of: the stages of a study, with its settings filled in, and the arithmetic of fairness."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torchbonsai.data.load import DataConfig
from torchbonsai.models.build import ModelConfig, build
from torchbonsai.study.arms import EQUAL_COMPUTE, Material
from torchbonsai.study.fairness import stretched_epochs
from torchbonsai.study.methods import code_digest
from torchbonsai.study.numerics import check_device
from torchbonsai.study.recipes.chain import Chain, Step, spent
from torchbonsai.study.record import Arm
from torchbonsai.study.runs import Finished
from torchbonsai.study.settings import Settings
from torchbonsai.study.stage import Stage
from torchbonsai.study.stages.images import Images, epoch_of, found
from torchbonsai.study.stages.measure import Evaluate, Time, Validate
from torchbonsai.study.stages.start import NewWeights
from torchbonsai.study.stages.train import Train

Cut = Callable[[Stage, int], Stage]
"""(the network before the cut, the round's number from 0) -> the stage that cuts it."""


def look_at(settings: Settings) -> tuple[Material, dict[str, str]]:
    """Read the data and build the model once, so that what cannot work fails before anything is written.

    Returns the material, and the places where its content lies. Raises DataError or ConfigError.
    """
    check_device(settings.device)
    config = DataConfig(settings.data, settings.data_dir, settings.limit_train, settings.val_size)
    target, splits, places = found(config)
    model = ModelConfig(settings.model, splits.in_shape, splits.classes)
    build(model, seed=0)
    code = code_digest(settings.model) if ":" in settings.model else ""
    return Material(model, target, splits, epoch_of(splits, settings.training(1.0, 0)), None, code), places


@dataclass(frozen=True, eq=False)
class Kit:
    """Stages of one study."""

    settings: Settings
    material: Material

    def new(self, seed: int) -> Stage:
        """New weights."""
        m = self.material
        return Stage(NewWeights(m.model, m.target, seed, m.code), label=f"new weights, seed {seed}")

    def train(self, parent: Stage, epochs: float, seed: int, label: str, data: Images | None = None) -> Stage:
        """Train what `parent` leaves, on the target unless said otherwise."""
        config = Train(data or self.material.target, self.settings.training(epochs, seed), self.settings.numerics)
        return Stage(config, {"model": parent}, label)

    def validate(self, parent: Stage, label: str) -> Stage:
        """The validation accuracy of what `parent` leaves."""
        return Stage(Validate(self.material.target, self.settings.numerics), {"model": parent}, label)

    def steps(
        self, start: Stage, cut: Cut | None, epochs: Sequence[float], seed: int, name: str, first: int = 0
    ) -> tuple[Step, ...]:
        """Rounds one after the other: `cut` (None: nothing is), then so many epochs each.

        first: the number of the first round. The order of images differs from round to round, and is the same in all
        arms of a seed.
        """
        made: list[Step] = []
        model = start
        for number, length in enumerate(epochs, start=first):
            where = f"{name}, round {number + 1}, seed {seed}"
            gone = cut(model, number) if cut is not None else None
            after = self.validate(gone, f"validation right after the cut: {where}") if gone is not None else None
            model = self.train(gone or model, length, seed + 7919 * number, f"training {where}")
            made.append(Step(gone, after, model, self.validate(model, f"validation: {where}")))
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

    def dense_for(self, seed: int, budget: str, total: int, finished: Finished) -> Chain:
        """The dense control of equal compute: one training from new weights, for all of `total`."""
        start = self.new(seed)
        epochs = stretched_epochs(total, 0, finished[start.spec].result["network"]["macs"], self.material.epoch)
        arm = Arm("untrained", "", "dense", budget, EQUAL_COMPUTE)
        return self.chain(arm, seed, start, self.steps(start, None, [epochs], seed, "dense network"), total)

    def stretched(self, chain: Chain, total: int, finished: Finished) -> Chain:
        """`chain` under equal compute: its last training is as long as what is left of `total` allows.

        Raises ConfigError where that is not one step.
        """
        *before, last = chain.steps
        gone = spent(chain, finished, before)
        scored = finished[last.cut.spec].result.get("scoring_macs", 0) if last.cut is not None else 0
        macs = finished[last.trained.spec].result["network"]["macs"]
        epochs = stretched_epochs(total, gone.total + scored, macs, self.material.epoch)
        old = last.trained
        model = Stage(replace(old.config, training=replace(old.config.training, epochs=epochs)), old.parents, old.label)
        longer = Step(last.cut, last.after_cut, model, self.validate(model, last.checked.label))
        arm = replace(chain.arm, fairness=EQUAL_COMPUTE)
        return self.chain(arm, chain.seed, chain.start, (*before, longer), total)
