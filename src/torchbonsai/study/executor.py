"""Where stages run: in this process, or in persistent worker processes with a fixed number of threads each.

Workers are plain child processes that speak JSON lines (`study/worker.py`), not `multiprocessing`: the calling script
needs no `if __name__ == "__main__"`, nothing is pickled, and a worker ends by itself when its parent dies.
"""

from __future__ import annotations

import contextlib
import os
import queue
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torchbonsai.core.errors import PruningError
from torchbonsai.study.child import Child, child_died, error_of, unexpected
from torchbonsai.study.store import Store
from torchbonsai.study.work import Task, perform

BUILT_IN = ("torchbonsai.study.stages",)
WORKER = "torchbonsai.study.worker"


@dataclass(frozen=True)
class Report:
    """What an executor says about a task: progress, its end, or its failure."""

    key: str
    progress: tuple[float, float, str] | None = None
    error: PruningError | None = None

    @property
    def finished(self) -> bool:
        """True when the stage's record is in the store."""
        return self.progress is None and self.error is None


class Executor(Protocol):
    """Takes tasks, one per free place, and reports about them."""

    @property
    def free(self) -> int:
        """How many more tasks can be submitted now."""

    def submit(self, task: Task) -> None:
        """Start a task; its parents are done."""

    def next_report(self) -> Report:
        """Wait for the next thing to be said."""

    def close(self) -> None:
        """End at once, whatever runs; stages in progress leave no record."""


class InProcess:
    """Runs each task where it is submitted, in the calling thread."""

    def __init__(self, store: Store) -> None:
        """store: where parents are read and outputs written."""
        self._store = store
        self._reports: list[Report] = []

    @property
    def free(self) -> int:
        """One task at a time."""
        return 0 if self._reports else 1

    def submit(self, task: Task) -> None:
        """Run the task now; its reports wait for `next_report`."""
        try:
            perform(task, self._store, lambda *p: self._reports.append(Report(task.key, progress=p)))
        except PruningError as error:
            self._reports.append(Report(task.key, error=error))
        except Exception:  # noqa: BLE001  a user's factory or criterion may raise anything
            self._reports.append(Report(task.key, error=unexpected(traceback.format_exc())))
        else:
            self._reports.append(Report(task.key))

    def next_report(self) -> Report:
        """The oldest report that was not yet given."""
        return self._reports.pop(0)

    def close(self) -> None:
        """Nothing runs, nothing to end."""


class Workers:
    """`count` child processes, started at once, each running one task at a time."""

    def __init__(self, store: Store, count: int, *, threads: int = 1, modules: Sequence[str] = BUILT_IN) -> None:
        """threads: torch threads of each worker. modules: imported by the workers, to register kinds of stages."""
        self._reports: queue.Queue[tuple[Child, dict[str, Any]]] = queue.Queue()
        self._idle: list[Child] = []
        self._busy: dict[str, Child] = {}
        self._workers: list[Child] = []
        try:
            for _ in range(count):
                self._workers.append(Child(WORKER, store, threads, modules, self._reports))
        except BaseException:
            self.close()
            raise
        self._idle = list(self._workers)

    @property
    def free(self) -> int:
        """How many workers have nothing to do."""
        return len(self._idle)

    def submit(self, task: Task) -> None:
        """Give the task to a free worker."""
        worker = self._idle.pop()
        self._busy[task.key] = worker
        worker.send(task)

    def next_report(self) -> Report:
        """Wait for a line of any worker. A worker that ends without being asked to is a StageError."""
        worker, line = self._reports.get()
        key = line.get("key") or next((k for k, w in self._busy.items() if w is worker), "")
        if "progress" in line:
            done, of, note = line["progress"]
            return Report(key, progress=(done, of, note))
        self._busy.pop(key, None)
        if "ended" in line:
            return Report(key, error=child_died(line["ended"]))
        self._idle.append(worker)
        return Report(key, error=error_of(line["error"]) if "error" in line else None)

    def close(self) -> None:
        """Kill the workers: a stage is written all or nothing, so that any moment is a good one."""
        for worker in self._workers:
            worker.kill()


@contextlib.contextmanager
def running(store: Store, workers: int | None, threads: int, devices: int = 1) -> Iterator[Executor]:
    """An executor, and its end. workers: processes, 0 for this one, None for what the machine has room for.

    devices: of every training, a process each.
    """
    count = default_workers(devices) if workers is None else workers
    executor = Workers(store, count, threads=threads) if count else InProcess(store)
    try:
        yield executor
    finally:
        executor.close()


def default_workers(devices: int = 1) -> int:
    """Two where there are two cores or more (one, if a training takes several devices), else none: in this process."""
    if (os.cpu_count() or 1) == 1:
        return 0
    return 2 if devices == 1 else 1
