"""Running one stage against a store, in whatever process: take the lock, look again, run, write."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import cattrs
from cattrs.strategies import configure_union_passthrough

from torchbonsai.core.errors import ConfigError, PruningError, message
from torchbonsai.study.numerics import Numerics, applied
from torchbonsai.study.stage import KINDS, Context, Kind, Output
from torchbonsai.study.store import DamagedStage, Done, Store
from torchbonsai.training.team import ALONE, Team

Progress = Callable[[float, float, str], None]
_CONVERTER = cattrs.Converter(forbid_extra_keys=True)
configure_union_passthrough(int | float, _CONVERTER)  # a count and a share are told apart by their type


class StageError(PruningError):
    """A stage failed for a reason that is not one of torchbonsai's own errors; the message holds the traceback."""


@dataclass(frozen=True)
class Task:
    """A stage that is ready to run, as plain data. parents: role -> key in the store."""

    key: str
    kind: str
    config: dict[str, Any]
    parents: dict[str, str]
    label: str = ""
    places: dict[str, str] = field(default_factory=dict)


def config_to_json(config: Any) -> dict[str, Any]:
    """A stage's config as JSON data."""
    return _CONVERTER.unstructure(config)


def config_from_json(kind: Kind, data: Mapping[str, Any]) -> Any:
    """The config of a registered kind from JSON data; ConfigError where the fields do not fit."""
    try:
        return _CONVERTER.structure(data, kind.config)
    except (cattrs.BaseValidationError, cattrs.errors.ForbiddenExtraKeysError) as error:
        raise ConfigError(
            message(
                f"the config of a {kind.name!r} stage must have the fields of {kind.config.__qualname__}",
                "; ".join(cattrs.transform_error(error)),
                "a record written by another version",
                "start with a fresh output folder",
            )
        ) from error


def perform(task: Task, store: Store, progress: Progress) -> Done:
    """Run the task unless it is done, and return what it left. Whoever else runs the same stage is waited for."""
    kind = KINDS[task.kind]
    config = config_from_json(kind, task.config)
    with store.lock(task.key):
        try:
            done = store.load(task.key)
        except DamagedStage:
            store.discard(task.key)
            done = None
        if done is not None:
            return done
        if kind.shared and config.numerics.devices > 1:
            from torchbonsai.study.together import share_out  # its children import this module

            share_out(task, config.numerics, store, progress)
            return _left(store, task.key, "a stage that ran must have left its record")
        return store.save(task.key, *carried_out(task, store, progress))


def carried_out(task: Task, store: Store, progress: Progress, team: Team = ALONE) -> tuple[Output, dict[str, Any]]:
    """(what the task's handler returns, what the record says about it). team: of processes that all do this."""
    kind = KINDS[task.kind]
    config = config_from_json(kind, task.config)
    must = "a stage's parents must be done before it runs"
    inputs = {role: _left(store, key, must) for role, key in task.parents.items()}
    start = time.perf_counter()
    with applied(getattr(config, "numerics", Numerics())):
        output = kind.handler(config, inputs, Context(store.path(task.key), task.places, progress, team))
    seconds = round(time.perf_counter() - start, 3)
    about = {
        "kind": kind.name,
        "version": kind.version,
        "config": config,
        "parents": {role: {"key": parent.key, "digest": parent.digest} for role, parent in inputs.items()},
        "timing": {**output.timing, "seconds": seconds},
    }
    return output, about


def _left(store: Store, key: str, must: str) -> Done:
    done = store.load(key)
    if done is None:
        got = f"{store.path(key)} holds no record"
        raise StageError(message(must, got, "the folder was deleted while the study ran", "start the study again"))
    return done
