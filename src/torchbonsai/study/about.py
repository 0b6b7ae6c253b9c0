"""`study.json`: what a study was asked, on what, with which versions and hardware, and which records are its own."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cattrs

from torchbonsai.core.config import plain, write_atomic
from torchbonsai.core.errors import ArtifactError, message
from torchbonsai.study.record import RunRecord, Unit, read
from torchbonsai.study.settings import ARITHMETIC, PLACES, Settings

FILE = "study.json"


@dataclass(frozen=True)
class Choice:
    """The best small network under a budget: chosen on validation, its test accuracy beside it.

    runs, arms: how many it was chosen from. larger: trainings that were left out, since their networks have over 2 %
    more of `unit`, which is what the budget counts, than every network of a method. folder: where it is saved, beside
    study.json. load: the lines that load it.
    """

    budget: str
    arm: str
    seed: int
    val_accuracy: float
    test_accuracy: float
    macs: int
    params: int
    runs: int
    arms: int
    folder: str
    load: str
    larger: int = 0
    unit: Unit = "macs"


@dataclass(frozen=True)
class About:
    """config: all settings. data: what was trained on, in words. records: file names under `records/`.

    recipe: its name, "" of a comparison. sentences: what a recipe found. method: what of it is the paper's, what ours.
    """

    identity: str
    config: dict[str, Any]
    data: dict[str, Any]
    versions: dict[str, str]
    hardware: dict[str, Any]
    records: tuple[str, ...]
    choices: tuple[Choice, ...] = ()
    command: str = ""
    recipe: str = ""
    sentences: tuple[str, ...] = ()
    method: str = ""


@dataclass(frozen=True)
class Study:
    """A finished study, read from its folder."""

    folder: Path
    about: About
    records: tuple[RunRecord, ...]


def write_about(about: About, out: Path) -> Path:
    """Write `study.json`, all or nothing."""
    data = {"type": "Study", "version": 1, **cattrs.Converter().unstructure(about)}
    path = out / FILE
    write_atomic(path, json.dumps(data, indent=1))
    return path


def replaced(settings: Settings) -> str:
    """What is to be said where the folder of `settings` holds a study with others; "" where it does not."""
    try:
        held = json.loads((Path(settings.out) / FILE).read_text(encoding="utf-8"))
        before, records = dict(held["config"]), len(held["records"])
    except (OSError, KeyError, TypeError, ValueError):
        return ""
    now = plain(settings)
    chosen = ARITHMETIC if settings.precision == "auto" else ()
    names = [n for n in dict.fromkeys((*before, *now)) if n not in (*PLACES, *chosen) and before.get(n) != now.get(n)]
    if not names:
        return ""
    changed = ", ".join(f"{name} {before.get(name)} -> {now.get(name)}" for name in names[:5])
    changed += f" and {len(names) - 5} more" * (len(names) > 5)
    return (
        f"{settings.out} holds a study with other settings ({changed}): "
        f"its {FILE}, report and best networks will be replaced; its {records} records stay, and the new {FILE} names "
        "its own"
    )


def read_study(out: Path | str) -> Study:
    """A study from its folder. Raises ArtifactError where it is none, is not finished, or is damaged."""
    out = Path(out)
    try:
        data = json.loads((out / FILE).read_text(encoding="utf-8"))
        if (data.pop("type"), data.pop("version")) != ("Study", 1):
            raise ValueError("of another type or version")
        about = cattrs.Converter(forbid_extra_keys=True).structure(data, About)
    except (OSError, KeyError, ValueError, AttributeError, cattrs.BaseValidationError) as error:
        raise ArtifactError(
            message(
                f"a study's folder must hold the {FILE} of a finished comparison",
                f"{out}: {type(error).__name__}: {error}",
                "a comparison that has not finished, or another folder",
                "run the same `bonsai compare` again: it goes on where it stopped",
            )
        ) from error
    return Study(out, about, tuple(read(_paths(out, about.records))))


def _paths(out: Path, names: Iterable[str]) -> list[Path]:
    return [out / "records" / name for name in names]
