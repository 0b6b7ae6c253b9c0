"""A worker process: reads tasks as JSON lines on stdin, runs them, answers on stdout. Started by `study.executor`.

    python -m torchbonsai.study.worker STORE THREADS [MODULE…]

Whatever a stage prints goes to stderr, so that it cannot be taken for an answer. The process ends when its stdin
closes, at once even in the middle of a stage: then its parent is gone, and the next one wants the stage's lock.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any


def main(arguments: list[str], run: Callable[..., object] | None = None) -> None:
    """Serve until stdin closes. arguments: the store's folder, threads, modules that register kinds of stages.

    run: called with (task, store, progress); default: `study.work.perform`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    tasks: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_listen, args=(sys.stdin, tasks), daemon=True).start()

    import torch

    from torchbonsai.study.store import Store
    from torchbonsai.study.work import perform

    folder, threads, *modules = arguments
    torch.set_num_threads(int(threads))
    for module in modules:
        importlib.import_module(module)
    store = Store(Path(folder))
    while True:
        _serve(tasks.get(), run or perform, store, answers)


def _listen(lines: IO[str], tasks: queue.Queue[dict[str, Any]]) -> None:
    for line in lines:
        tasks.put(json.loads(line))
    os._exit(0)


def _serve(data: dict[str, Any], run: Callable[..., object], store: Any, answers: IO[str]) -> None:
    from torchbonsai.core.errors import PruningError
    from torchbonsai.study.work import Task

    last = 0.0

    def progress(done: float, of: float, note: str) -> None:
        nonlocal last
        if time.monotonic() - last > 0.1:
            last = time.monotonic()
            _say(answers, {"key": data["key"], "progress": [done, of, note]})

    try:
        run(Task(**data), store, progress)
    except PruningError as error:
        _say(answers, {"key": data["key"], "error": {"type": type(error).__name__, "message": str(error)}})
    except Exception:  # noqa: BLE001  a user's factory or criterion may raise anything
        _say(answers, {"key": data["key"], "error": {"type": "", "message": traceback.format_exc()}})
    else:
        _say(answers, {"key": data["key"]})


def _say(answers: IO[str], data: dict[str, Any]) -> None:
    answers.write(json.dumps(data) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
