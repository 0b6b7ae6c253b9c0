"""Where stages run: in this process, or in persistent worker processes with a fixed number of threads each.

Workers are plain child processes that speak JSON lines (`study/worker.py`), not `multiprocessing`: the calling script
needs no `if __name__ == "__main__"`, nothing is pickled, and a worker ends by itself when its parent dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torchbonsai.core.errors as errors
from torchbonsai.core.errors import PruningError, message
from torchbonsai.study.store import DamagedStage, Store
from torchbonsai.study.work import StageError, Task, perform

BUILT_IN = ("torchbonsai.study.stages",)


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
        self._reports: queue.Queue[tuple[_Worker, dict[str, Any]]] = queue.Queue()
        self._idle: list[_Worker] = []
        self._busy: dict[str, _Worker] = {}
        self._workers: list[_Worker] = []
        try:
            for _ in range(count):
                self._workers.append(_Worker(store, threads, modules, self._reports))
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
            return Report(key, error=_worker_died(line["ended"]))
        self._idle.append(worker)
        return Report(key, error=_error_of(line["error"]) if "error" in line else None)

    def close(self) -> None:
        """Kill the workers: a stage is written all or nothing, so that any moment is a good one."""
        for worker in self._workers:
            worker.kill()


class _Worker:
    """A child process and the thread that reads its lines."""

    def __init__(self, store: Store, threads: int, modules: Sequence[str], reports: queue.Queue[Any]) -> None:
        command = [sys.executable, "-m", "torchbonsai.study.worker", str(store.folder), str(threads), *modules]
        # The one thing about the arithmetic that must be set before torch starts.
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True, encoding="utf-8"
        )
        self._reports = reports
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._reports.put((self, json.loads(line)))
        self._reports.put((self, {"ended": self._process.wait()}))

    def send(self, task: Task) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the reading thread reports the end
            self._process.stdin.write(json.dumps(asdict(task)) + "\n")
            self._process.stdin.flush()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()


@contextlib.contextmanager
def running(store: Store, workers: int | None, threads: int) -> Iterator[Executor]:
    """An executor, and its end. workers: processes, 0 for this one, None for what the machine has room for."""
    count = default_workers() if workers is None else workers
    executor = Workers(store, count, threads=threads) if count else InProcess(store)
    try:
        yield executor
    finally:
        executor.close()


def default_workers() -> int:
    """Two where there are two cores or more, else none (in this process)."""
    return 2 if (os.cpu_count() or 1) > 1 else 0


def unexpected(text: str) -> StageError:
    """The error for an exception that nobody foresaw; text: its traceback."""
    return StageError(
        message(
            "a stage must run to its end",
            text.strip(),
            "an error in the model's, the criterion's or torchbonsai's own code",
            "mend it and run the same command again: finished stages are kept",
        )
    )


def _worker_died(code: int) -> StageError:
    return StageError(
        message(
            "a worker process must live as long as the study",
            f"a worker ended with exit code {code}",
            "it was killed, often for lack of memory",
            "run the same command again, with fewer workers: finished stages are kept",
        )
    )


def _error_of(data: dict[str, str]) -> PruningError:
    """The error a worker met, as the same type here."""
    known: dict[str, type[PruningError]] = {DamagedStage.__name__: DamagedStage, StageError.__name__: StageError}
    kind = known.get(data["type"]) or getattr(errors, data["type"], None)
    if isinstance(kind, type) and issubclass(kind, PruningError):
        return kind(data["message"])
    return unexpected(data["message"])
