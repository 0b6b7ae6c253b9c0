"""Handing over the best small network under each budget: chosen on validation, its test accuracy beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from torchbonsai.artifacts.save import save
from torchbonsai.study.about import Choice
from torchbonsai.study.record import RunRecord
from torchbonsai.study.stages.network import taken
from torchbonsai.study.store import Done
from torchbonsai.surgery.plan import PruningPlan


def candidates(records: Iterable[RunRecord], budget: str) -> list[RunRecord]:
    """Every small network at the budget, controls too, under whatever fairness it was trained."""
    return [r for r in records if r.arm.budget == budget and r.arm.control != "dense"]


def best(found: Iterable[RunRecord]) -> RunRecord:
    """The highest validation accuracy; of equals the fewer MACs, then the first by name. Test is not looked at."""
    return min(found, key=lambda r: (-r.val_accuracy, r.macs, r.name))


def hand_over(record: RunRecord, trained: Done, found: list[RunRecord], out: Path) -> Choice:
    """Save the network that `trained` left to out/best/<budget>, and say how to load it."""
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
        load=f"import torchbonsai as tb\nmodel = tb.load({json.dumps(str(folder))})",
    )
