"""Equal compute for arms in rounds: every round has the share of the total that it had under equal epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torchbonsai.study.arms import EQUAL_COMPUTE
from torchbonsai.study.fairness import stretched_epochs
from torchbonsai.study.recipes.chain import Chain, Draft, Step, spent, spent_by
from torchbonsai.study.recipes.kit import Cut, Kit
from torchbonsai.study.runs import Finished, spent_before
from torchbonsai.study.stage import Stage

LONGER = 1.1
"""From this factor on, all rounds of a cheaper arm are longer; below it, the last one alone. Where an arm costs more
than the total, which only the dense control does, all of its rounds are shorter."""


def longer(kit: Kit, like: Chain, cut: Cut, total: int, finished: Finished, counted: bool) -> Chain | Draft:
    """`like` under equal compute, or what has to be done before more of it can be said.

    cut: as in `like`, given the network and the number of the round among all. counted: whether the training of a
    pretrained start's source is, or is free as if downloaded. Raises ConfigError where a round is left without a step.
    """
    goals = _goals(like, total, finished, counted)
    start = spent_before(like.start, like.start, finished)
    free = 0 if counted else start.source
    steps: list[Step] = []
    model = like.start
    for number, (theirs, goal) in enumerate(zip(like.steps, goals, strict=True)):
        gone = None if theirs.cut is None else cut(model, number)
        needed = gone or model
        if needed.spec not in finished:
            return Draft((*_all(steps), needed))
        result = finished[needed.spec].result
        before = spent_by(like.start, steps, finished).total - free + (result.get("scoring_macs", 0) if gone else 0)
        same, lr = theirs.trained.config.training.epochs, theirs.trained.config.training.lr
        macs = result["network"]["macs"]
        epochs = same if goal is None else stretched_epochs(goal, before, macs, kit.material.epoch)
        name = f"{like.arm.start_name} {like.arm.name}"
        steps.append(kit.step(gone, model, epochs, like.seed, name, number, lr=lr))
        model = steps[-1].trained
    arm = replace(like.arm, fairness=EQUAL_COMPUTE, source_counted=counted)
    return kit.chain(arm, like.seed, like.start, tuple(steps), total)


def _goals(like: Chain, total: int, finished: Finished, counted: bool) -> Sequence[int | None]:
    """What may be spent by the end of each round; None: as long as under equal epochs."""
    gone = spent(like, finished)
    free = 0 if counted else gone.source
    begun = gone.source + gone.start - free
    rounds = gone.scoring + gone.training
    if 1 <= (total - begun) / rounds < LONGER:
        return [*[None] * (len(like.steps) - 1), total]
    shares = [_in_rounds(like, like.steps[: n + 1], finished) / rounds for n in range(len(like.steps))]
    return [begun + int((total - begun) * share) for share in shares[:-1]] + [total]


def _in_rounds(like: Chain, steps: Sequence[Step], finished: Finished) -> int:
    here = spent_by(like.start, steps, finished)
    return here.scoring + here.training


def _all(steps: Sequence[Step]) -> list[Stage]:
    return [
        s for step in steps for s in (step.after_cut, step.recalibrated, step.trained, step.checked) if s is not None
    ]
