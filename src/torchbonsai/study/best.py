"""Handing over the best small network under each budget: chosen on validation, its test accuracy beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torchbonsai.artifacts.save import save
from torchbonsai.study.about import Choice
from torchbonsai.study.arms import DIVERSITY
from torchbonsai.study.record import RunRecord, Unit
from torchbonsai.study.stages.network import taken
from torchbonsai.study.store import Done
from torchbonsai.study.table import TOLERANCE
from torchbonsai.surgery.plan import PruningPlan


def candidates(records: Iterable[RunRecord], budget: str, unit: Unit) -> tuple[list[RunRecord], int]:
    """The small networks at the budget, controls too, under whatever fairness they were trained; and how many others
    were left out for their size.

    A control may carry a budget's name and be larger than what was cut to it: small is what has, within 2 %, no more
    of the budget's `unit` than the largest network of a method; where there is none of a method, all are. Networks that
    were trained to study the diversity of widths are no answer to the budget, and neither small nor left out.
    """
    here = [r for r in records if r.arm.budget == budget and r.arm.fairness != DIVERSITY]
    found = [r for r in here if r.arm.control != "dense"]
    largest = max((getattr(r, unit) for r in found if r.arm.control == ""), default=math.inf)
    small = [r for r in found if getattr(r, unit) <= (1 + TOLERANCE) * largest]
    return small, len(found) - len(small)


def best(found: Iterable[RunRecord]) -> RunRecord:
    """The highest validation accuracy; of equals the fewer MACs, then the first by name. Test is not looked at."""
    return min(found, key=lambda r: (-r.val_accuracy, r.macs, r.name))


def choose(records: Sequence[RunRecord], trained: Mapping[str, Done], budget: str, unit: Unit, out: Path) -> Choice:
    """Save the best small network at the budget to out/best/<budget>, and say how to load it.

    trained: a record's name -> what its last training left. unit: what the budget counts.
    """
    chosen, choice = pick(records, budget, unit, out)
    network, module = taken(trained[chosen.name])
    plan = None if network.plan is None else PruningPlan.from_json(network.plan)
    save((module, plan), out / choice.folder, build=network.model if network.head is None else network.module)
    return choice


def pick(records: Sequence[RunRecord], budget: str, unit: Unit, out: Path) -> tuple[RunRecord, Choice]:
    """The best small network at the budget, and what is said of it; it is, or was, saved under `out`."""
    found, larger = candidates(records, budget, unit)
    record, folder = best(found), Path("best") / budget
    return record, Choice(
        budget=budget,
        arm=f"{record.arm.start_name} {record.arm.name}, {record.arm.fairness}",
        seed=record.seed,
        val_accuracy=record.val_accuracy,
        test_accuracy=record.test_accuracy,
        macs=record.macs,
        params=record.params,
        runs=len(found),
        arms=len({r.arm for r in found}),
        folder=str(folder),
        larger=larger,
        unit=unit,
        load=f"import torchbonsai as tb\nmodel = tb.load({json.dumps(str(out / folder))})",
    )
