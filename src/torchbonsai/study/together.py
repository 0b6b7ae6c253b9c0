"""One stage run by several processes, a device each: children that live as long as the stage does."""

from __future__ import annotations

import contextlib
import queue
import socket
from time import monotonic
from typing import Any

from torchbonsai.study.child import Child, child_died, error_of
from torchbonsai.study.numerics import Numerics
from torchbonsai.study.stage import KINDS
from torchbonsai.study.store import Store
from torchbonsai.study.work import Progress, StageError, Task

MEMBER = "torchbonsai.study.member"
HERE = "127.0.0.1"
PATIENCE = 2.0
"""Seconds in which the death of a process shows after others lost their connection to it."""


def share_out(task: Task, numerics: Numerics, store: Store, progress: Progress) -> None:
    """Run the task in `numerics.devices` processes; process 0 writes the record. The caller has the stage's lock.

    progress: of process 0. The first error of any process is raised as what it is, and all are ended.
    """
    reports: queue.Queue[tuple[Child, dict[str, Any]]] = queue.Queue()
    modules = [KINDS[task.kind].handler.__module__]
    team: list[Child] = []
    try:
        port = free_port()
        for rank in range(numerics.devices):
            place = {"MASTER_ADDR": HERE, "MASTER_PORT": str(port), "NODE_RANK": "0", "LOCAL_RANK": str(rank)}
            team.append(Child(MEMBER, store, numerics.threads, modules, reports, place))
        for child in team:
            child.send(task)
        _wait(team, reports, progress)
    finally:
        for child in team:
            child.kill()


def _wait(team: list[Child], reports: queue.Queue[tuple[Child, dict[str, Any]]], progress: Progress) -> None:
    """Until all have said that they are done."""
    working = len(team)
    while working:
        child, line = reports.get()
        if "error" in line:
            foreseen = line["error"]["type"] != ""
            raise (None if foreseen else _death(reports)) or error_of(line["error"])
        if "ended" in line:
            raise child_died(line["ended"])
        if "progress" not in line:
            working -= 1
        elif child is team[0]:
            progress(*line["progress"])


def _death(reports: queue.Queue[tuple[Child, dict[str, Any]]]) -> StageError | None:
    """The end of a process, if one follows an error that nobody foresaw and so is likely its cause."""
    end = monotonic() + PATIENCE
    while (left := end - monotonic()) > 0:
        with contextlib.suppress(queue.Empty):
            _, line = reports.get(timeout=left)
            if "ended" in line:
                return child_died(line["ended"])
    return None


def free_port() -> int:
    """One that nobody listens on, here."""
    with socket.socket() as found:
        found.bind((HERE, 0))
        return found.getsockname()[1]
