"""Recipes for real, on a few embedded images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torchbonsai.study.recipes import RECIPES, follow
from torchbonsai.study.record import RunRecord

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
