"""Handing over the best small network under each budget: chosen on validation, its test accuracy beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torchbonsai.artifacts.save import save
from torchbonsai.study.about import Choice
from torchbonsai.study.record import RunRecord, Unit
from torchbonsai.study.stages.network import taken
from torchbonsai.study.store import Done
from torchbonsai.study.table import TOLERANCE
from torchbonsai.surgery.plan import PruningPlan


def candidates(records: Iterable[RunRecord], budget: str, unit: Unit) -> tuple[list[RunRecord], int]:
    """The small networks at the budget, controls too, under whatever fairness they were trained; and how many others
    were left out for their size.

    A control may carry a budget's name and be larger than what was cut to it: small is what has, within 2 %, no more
    of the budget's `unit` than the largest network of a method.
    """
    found = [r for r in records if r.arm.budget == budget and r.arm.control != "dense"]
    largest = max(getattr(r, unit) for r in found if r.arm.control == "")
    small = [r for r in found if getattr(r, unit) <= (1 + TOLERANCE) * largest]
    return small, len(found) - len(small)


def best(found: Iterable[RunRecord]) -> RunRecord:
    """The highest validation accuracy; of equals the fewer MACs, then the first by name. Test is not looked at."""
    return min(found, key=lambda r: (-r.val_accuracy, r.macs, r.name))


def choose(records: Sequence[RunRecord], trained: Mapping[str, Done], budget: str, unit: Unit, out: Path) -> Choice:
    """Save the best small network at the budget to out/best/<budget>, and say how to load it.

    trained: a record's name -> what its last training left. unit: what the budget counts.
    """
    found, larger = candidates(records, budget, unit)
    chosen = best(found)
    return _hand_over(chosen, trained[chosen.name], found, larger, unit, out)


def _hand_over(record: RunRecord, trained: Done, found: list[RunRecord], larger: int, unit: Unit, out: Path) -> Choice:
    network, module = taken(trained)
    plan = None if network.plan is None else PruningPlan.from_json(network.plan)
    folder = out / "best" / record.arm.budget
    build = network.model if network.head is None else network.module
    save((module, plan), folder, build=build)
    return Choice(
        budget=record.arm.budget,
        arm=f"{record.arm.start_name} {record.arm.name}, {record.arm.fairness}",
        seed=record.seed,
        val_accuracy=record.val_accuracy,
        test_accuracy=record.test_accuracy,
        macs=record.macs,
        params=record.params,
        runs=len(found),
        arms=len({r.arm for r in found}),
        folder=str(Path("best") / record.arm.budget),
        larger=larger,
        unit=unit,
        load=f"import torchbonsai as tb\nmodel = tb.load({json.dumps(str(folder))})",
    )
