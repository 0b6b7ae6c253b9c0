"""An arm of a recipe: a start, then rounds of cutting and training, each a stage; and its record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torchbonsai.study.fairness import Spent
from torchbonsai.study.record import Arm, Round, RunRecord
from torchbonsai.study.runs import Finished, looked_at, spent_before
from torchbonsai.study.stage import Stage
from torchbonsai.study.store import Done, versions


@dataclass(frozen=True, eq=False)
class Step:
    """A round: cut (None of a network that stays whole), look at validation, also with batch norms recalibrated, train,
    look again."""

    cut: Stage | None
    after_cut: Stage | None
    recalibrated: Stage | None
    trained: Stage
    checked: Stage


@dataclass(frozen=True, eq=False)
class Chain:
    """One arm with one seed. tested: the test set, after the last round. total: of training MACs, allowed."""

    arm: Arm
    seed: int
    start: Stage
    steps: tuple[Step, ...]
    tested: Stage
    timed: Stage
    total: int | None = None

    @property
    def stages(self) -> Iterator[Stage]:
        """All of them, in order."""
        for step in self.steps:
            yield from (
                s for s in (step.cut, step.after_cut, step.recalibrated, step.trained, step.checked) if s is not None
            )
        yield from (self.tested, self.timed)

    @property
    def network(self) -> Stage:
        """The last stage that cut; the start, where none did."""
        return next((s.cut for s in reversed(self.steps) if s.cut is not None), self.start)

    @property
    def trained(self) -> Stage:
        """The last training."""
        return self.steps[-1].trained

    def done(self, finished: Finished) -> bool:
        """Whether every stage has ended."""
        return all(stage.spec in finished for stage in self.stages)


@dataclass(frozen=True, eq=False)
class Draft:
    """An arm whose next round follows from what the ones before cost: the stages that have to be done first."""

    stages: tuple[Stage, ...]

    def done(self, finished: Finished) -> bool:
        """Whether the arm can be said further."""
        return all(stage.spec in finished for stage in self.stages)


def spent(chain: Chain, finished: Finished) -> Spent:
    """MACs spent from random weights on."""
    return spent_by(chain.start, chain.steps, finished)


def spent_by(start: Stage, steps: Sequence[Step], finished: Finished) -> Spent:
    """MACs spent from random weights to the end of `steps`."""
    before = spent_before(start, start, finished)
    cuts = [finished[s.cut.spec].result for s in steps if s.cut is not None]
    trainings = [finished[s.trained.spec].result for s in steps]
    scoring = sum(c.get("scoring_macs", 0) for c in cuts)
    return replace(before, scoring=scoring, training=sum(t["training_macs"] for t in trainings))


def record_of(chain: Chain, finished: Finished, identity: str) -> RunRecord:
    """The record of a chain whose accuracy is known; its latency is empty as long as that is not."""
    last = finished[chain.network.spec].result
    network, measured = last["network"], finished[chain.tested.spec]
    timed = finished.get(chain.timed.spec)
    trainings = [finished[s.trained.spec] for s in chain.steps]
    cuts = [finished[s.cut.spec] for s in chain.steps if s.cut is not None]
    roles = {"start": chain.start, "network": chain.network, "train": chain.trained, "evaluate": chain.tested}
    return RunRecord(
        arm=chain.arm,
        seed=chain.seed,
        val_accuracy=measured.result["val_accuracy"],
        test_accuracy=measured.result["test_accuracy"],
        macs=network["macs"],
        params=network["params"],
        dense_macs=network["dense_macs"],
        dense_params=network["dense_params"],
        budget_macs=None,
        widths=network["widths"],
        dense_widths=network["dense_widths"],
        epochs=sum(t.result["epochs"] for t in trainings),
        samples=sum(t.result["samples"] for t in trainings),
        spent=spent(chain, finished),
        total_macs_allowed=chain.total,
        verification=_worst(cuts),
        remade=network["remade"],
        stages={role: finished[stage.spec].key for role, stage in roles.items()},
        study=identity,
        versions=versions(),
        latency=timed.timing["latency"] if timed else {},
        timing={what: round(sum(t.timing[what] for t in trainings), 3) for what in ("training_seconds", "seconds")},
        environment=dict(trainings[-1].record["environment"]),
        rounds=tuple(_rounds(chain, finished)),
        notes=tuple(dict.fromkeys(note for cut in cuts for note in cut.result.get("notes", ()))),
        scored=tuple(cut.result["scored"] for cut in cuts if cut.result.get("scored")),
    )


def _rounds(chain: Chain, finished: Finished) -> Iterator[Round]:
    epochs = 0.0
    for step in chain.steps:
        trained = finished[step.trained.spec]
        epochs += trained.result["epochs"]
        looks = (None if stage is None else finished[stage.spec] for stage in (step.after_cut, step.recalibrated))
        val = finished[step.checked.spec].result["val_accuracy"]
        yield looked_at(trained, round(epochs, 6), val, *looks)


def _worst(cuts: Sequence[Done]) -> dict[str, Any]:
    """The verification of all cuts: exact if all were, the largest error of any."""
    checks = [c.result["verification"] for c in cuts if "verification" in c.result]
    if not checks:
        return {}
    errors = [c["max_rel_error"] for c in checks]
    reasons = dict.fromkeys(c["reason"] for c in checks if c["reason"])
    return {
        "exact": all(c["exact"] for c in checks),
        "max_rel_error": None if None in errors else max(errors),
        "dtype": checks[-1]["dtype"],
        "reason": "; ".join(reasons),
    }
