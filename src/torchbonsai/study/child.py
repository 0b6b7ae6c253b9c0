"""A process that runs stages for this one, and how its errors come back as what they are."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

import torchbonsai.core.errors as errors
from torchbonsai.core.errors import PruningError, message
from torchbonsai.study.store import DamagedStage, Store
from torchbonsai.study.work import StageError, Task


class Child:
    """A child process and the thread that reads its lines."""

    def __init__(
        self,
        program: str,
        store: Store,
        threads: int,
        modules: Sequence[str],
        reports: queue.Queue[Any],
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """program: the module to run. reports: gets (this child, what it says). more: environment variables."""
        command = [sys.executable, "-m", program, str(store.folder), str(threads), *modules]
        # The one thing about the arithmetic that must be set before torch starts.
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "CUBLAS_WORKSPACE_CONFIG": ":4096:8", **more}
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
        """A task to run; its reports come in time."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the reading thread reports the end
            self._process.stdin.write(json.dumps(asdict(task)) + "\n")
            self._process.stdin.flush()

    def kill(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()
        self._thread.join()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()


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


def child_died(code: int) -> StageError:
    """The error for a process that ended without being asked to."""
    return StageError(
        message(
            "a worker process must live as long as the study",
            f"a worker ended with exit code {code}",
            "it was killed, often for lack of memory",
            "run the same command again, with fewer workers: finished stages are kept",
        )
    )


def error_of(data: dict[str, str]) -> PruningError:
    """The error a worker met, as the same type here."""
    known: dict[str, type[PruningError]] = {DamagedStage.__name__: DamagedStage, StageError.__name__: StageError}
    kind = known.get(data["type"]) or getattr(errors, data["type"], None)
    if isinstance(kind, type) and issubclass(kind, PruningError):
        return kind(data["message"])
    return unexpected(data["message"])
