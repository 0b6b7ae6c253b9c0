"""Recipes for real, on a few embedded images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torchbonsai.study.recipes import RECIPES, follow
from torchbonsai.study.record import Arm, Round, RunRecord

TINY: dict[str, Any] = {
    "data": "fashion-target",
    "limit_train": 96,
    "val_size": 50,
    "batch_size": 32,
    "score_images": 64,
    "workers": 0,
    "seeds": (3,),
}


def followed(name: str, out: Path, **settings: Any) -> list[RunRecord]:
    """The records of a tiny run."""
    recipe = RECIPES[name]
    config = recipe.config(**(TINY | settings), out=str(out))
    return follow(recipe(config), config)


def arms(records: list[RunRecord], fairness: str) -> set[tuple[str, str, str]]:
    """(start, method, control) of every arm."""
    return {(r.arm.start, r.arm.method, r.arm.control) for r in records if r.arm.fairness == fairness}


def of(records: list[RunRecord], control: str, fairness: str = "equal-epochs", **more: Any) -> list[RunRecord]:
    """The records of one kind of arm; more: fields of the arm."""
    return [
        r
        for r in records
        if (r.arm.control, r.arm.fairness) == (control, fairness)
        and all(getattr(r.arm, k) == v for k, v in more.items())
    ]


def made_up(
    start: str, seed: int, points: list[tuple[int, float]], control: str = "", fairness: str = "equal-epochs"
) -> RunRecord:
    """A record of one layer of ten channels; points: (channels, validation accuracy)."""
    rounds = tuple(Round(float(k), 10 * c, 100 * c, c, {"conv": c}, None, v) for k, (c, v) in enumerate(points))
    more: dict[str, dict[str, str]] = {key: {} for key in ("spent", "stages", "verification", "versions")}
    arm = Arm(start, "" if control else "l2", control, "4x", fairness)
    fixed = {"dense_macs": 100, "dense_params": 1000, "budget_macs": None, "dense_widths": {"conv": 10}, "epochs": 1}
    last = {"macs": rounds[-1].macs, "params": rounds[-1].params, "widths": rounds[-1].widths}
    said = {"samples": 1, "total_macs_allowed": None, "remade": "", "study": ""}
    return RunRecord(arm, seed, points[-1][1], 0.5, **last, **fixed, **more, **said, rounds=rounds)  # type: ignore[arg-type]
