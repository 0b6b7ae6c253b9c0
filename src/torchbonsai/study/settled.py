"""Settings that are chosen by measurement: measured once per study, as a stage like any other, and stored in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from torchbonsai.study.arms import Material
from torchbonsai.study.executor import Executor
from torchbonsai.study.runner import Listener, run
from torchbonsai.study.settings import ARITHMETIC, Settings
from torchbonsai.study.stage import Stage
from torchbonsai.study.stages.fastest import Fastest
from torchbonsai.study.store import Done, Store

S = TypeVar("S", bound=Settings)


def settled(
    settings: S,
    material: Material,
    epochs: float,
    store: Store,
    executor: Executor,
    *,
    listener: Listener = lambda event: None,
    places: Mapping[str, str] | None = None,
) -> tuple[S, dict[str, str]]:
    """`settings` without "auto": precision, layout and compile that are fastest for trainings of so many epochs.

    A study that goes on elsewhere finds the choice in its store and keeps it, so that its records stay comparable.
    Returns also what a report says about it, in words: nothing where nothing was chosen.
    """
    if settings.precision != "auto":
        return settings, {}
    plain = settings.concrete
    training = replace(plain.training(epochs, 0), epochs=1.0)
    steps = max(1, round(epochs * material.epoch.steps))
    stage = Stage(
        Fastest(material.model, material.target, training, steps, plain.numerics, material.code),
        label="measuring what trains fastest here",
    )
    done = run([stage], store, executor, listener=listener, places=places)[stage.spec]
    found = {name: done.result[name] for name in ARITHMETIC}
    return replace(settings, **found), {"arithmetic": in_words(done)}


def in_words(done: Done) -> str:
    """The choice, and what was measured."""
    rows = [_row(row) for row in done.timing["candidates"]]
    return f"{done.result['name']}: chosen by measurement. Images a second in training: {'; '.join(rows)}"


def _row(row: Mapping[str, Any]) -> str:
    if "note" in row:
        return f"{row['name']} not measured ({row['note'] or 'it failed'})"
    first = f" (first step {row['first_step_seconds']:.0f} s)" if row["name"].endswith("compiled") else ""
    return f"{row['name']} {row['images_per_second']:.0f}{first}"
