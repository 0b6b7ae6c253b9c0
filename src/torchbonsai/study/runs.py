"""The runs of a comparison under each fairness: a start, a network, its training, its measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torchbonsai.study.arms import EQUAL_COMPUTE, EQUAL_EPOCHS, Arms, Cut, label
from torchbonsai.study.fairness import Spent, costliest, stretched_epochs, training_macs
from torchbonsai.study.record import Arm, Round
from torchbonsai.study.stage import Stage
from torchbonsai.study.stages.measure import Evaluate, Time, Validate
from torchbonsai.study.stages.snapshots import Snapshot
from torchbonsai.study.stages.start import FreshHead
from torchbonsai.study.stages.train import Train
from torchbonsai.study.store import Done

Finished = Mapping[str, Done]
"""A stage's spec -> what it left."""


@dataclass(frozen=True, eq=False)
class Run:
    """One arm with one seed. after_cut, recalibrated: looks at validation right after surgery, of arms that inherit
    weights. total: of training MACs, allowed under equal-compute."""

    arm: Arm
    seed: int
    start: Stage
    network: Stage
    trained: Stage
    measured: Stage
    timed: Stage
    after_cut: Stage | None = None
    recalibrated: Stage | None = None
    total: int | None = None

    @property
    def stages(self) -> list[Stage]:
        """Those that end it, in order."""
        return [s for s in (self.after_cut, self.recalibrated, self.measured, self.timed) if s is not None]


def equal_epochs(arms: Arms) -> list[Run]:
    """Every arm and control, trained for the same epochs from its start on; seed after seed."""
    budgets = arms.config.fair(EQUAL_EPOCHS)
    if not budgets:
        return []
    cuts = [c for c in arms.cuts if c.arm.budget in budgets]
    cuts += [_dense(arms, start, "", EQUAL_EPOCHS, seed) for seed in arms.config.seeds for start in arms.config.starts]
    runs = [_run(arms, cut, arms.config.epochs) for cut in cuts]
    return sorted(runs, key=lambda run: arms.config.seeds.index(run.seed))


def equal_compute(arms: Arms, finished: Finished) -> list[Run]:
    """Every arm and control, each with the total of its budget; finished: the stages of `arms.cuts`."""
    runs = []
    for budget in arms.config.fair(EQUAL_COMPUTE):
        cuts = [c for c in arms.cuts if c.arm.budget == budget]
        total = costliest(_spent(arms, cut, finished) for cut in cuts)
        dense = [_dense(arms, "untrained", budget, EQUAL_COMPUTE, seed) for seed in arms.config.seeds]
        for cut in [v for c in cuts for v in _variants(c)] + dense:
            runs.append(_stretched(arms, cut, total, finished))
    return sorted(runs, key=lambda run: arms.config.seeds.index(run.seed))


def spent_before(start: Stage, network: Stage, finished: Finished) -> Spent:
    """What was spent until the training after the cut, read off the records of the start and of the cut."""
    source = start_macs = 0
    if isinstance(start.config, FreshHead):
        source = finished[start.parents["model"].spec].result["training_macs"]
    elif isinstance(start.config, Train | Snapshot):
        start_macs = finished[start.spec].result["training_macs"]
    return Spent(source, start_macs, finished[network.spec].result.get("scoring_macs", 0))


def looked_at(
    trained: Done, epochs: float, val_accuracy: float, after_cut: Done | None, recalibrated: Done | None
) -> Round:
    """A point of a curve: the network that `trained` left, `epochs` after the start, and looks right after its cut."""
    network = trained.result["network"]
    norms = recalibrated is not None and recalibrated.result["norms"]  # without one there is nothing to take anew
    return Round(
        epochs=epochs,
        macs=network["macs"],
        params=network["params"],
        channels=sum(network["widths"].values()),
        widths=network["widths"],
        after_cut=after_cut.result["val_accuracy"] if after_cut is not None else None,
        recalibrated=recalibrated.result["val_accuracy"] if recalibrated is not None and norms else None,
        val_accuracy=val_accuracy,
    )


def _dense(arms: Arms, start: str, budget: str, fairness: str, seed: int) -> Cut:
    """The control that is not cut at all."""
    begin = arms.start(start, seed)
    arm = Arm(start, "", "dense", budget, fairness, source_counted=not arms.free(start))
    return Cut(arm, seed, begin, begin)


def _variants(cut: Cut) -> list[Cut]:
    """The arm itself; a pretrained one once more with its source training free."""
    arm = replace(cut.arm, fairness=EQUAL_COMPUTE)
    arms = [arm]
    if arm.start == "pretrained" and arm.source_counted:
        arms.append(replace(arm, source_counted=False))
    return [replace(cut, arm=a) for a in arms]


def _spent(arms: Arms, cut: Cut, finished: Finished) -> Spent:
    """What the arm spends under equal-epochs, whether that is run or not."""
    samples = arms.material.epoch.samples(arms.config.epochs)
    training = training_macs(_macs(cut, finished), samples)
    return replace(spent_before(cut.start, cut.stage, finished), training=training)


def _stretched(arms: Arms, cut: Cut, total: int, finished: Finished) -> Run:
    before = spent_before(cut.start, cut.stage, finished)
    counted = before.before - (0 if cut.arm.source_counted else before.source)
    epochs = stretched_epochs(total, counted, _macs(cut, finished), arms.material.epoch)
    return replace(_run(arms, cut, epochs), total=total)


def _macs(cut: Cut, finished: Finished) -> int:
    return int(finished[cut.stage.spec].result["network"]["macs"])


def _run(arms: Arms, cut: Cut, epochs: float) -> Run:
    target, numerics = arms.material.target, arms.config.numerics
    name = label(cut.arm, cut.seed)
    trained = arms.training(cut.stage, target, epochs, cut.seed, f"training {name}")
    measured = Stage(Evaluate(target, numerics), {"model": trained}, f"testing {name}")
    # Weights do not change the time: a network is timed before its training, once for both fairnesses.
    network = arms.untrained(cut.seed) if cut.arm.control == "dense" else cut.stage
    timed = Stage(Time(target, numerics), {"model": network}, f"timing {network.label}")
    run = Run(cut.arm, cut.seed, cut.start, cut.stage, trained, measured, timed)
    if cut.arm.control in ("dense", "uniform-new"):  # nothing is inherited through a cut
        return run
    seen = {"model": cut.stage}
    after = Stage(Validate(target, numerics), seen, f"validation right after the cut: {name}")
    again = Validate(target, numerics, arms.config.score_images)
    return replace(run, after_cut=after, recalibrated=Stage(again, seen, f"validation, norms recalibrated: {name}"))
