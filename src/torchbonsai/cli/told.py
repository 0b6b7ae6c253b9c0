"""What the library logs while something takes long, as one line on the terminal; warnings as lines that stay."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status
from rich.text import Text


class _OnStatus(logging.Handler):
    def __init__(self, status: Status, console: Console) -> None:
        super().__init__(logging.INFO)
        self.status, self.console = status, console

    def emit(self, record: logging.LogRecord) -> None:
        """Information replaces what was there."""
        if record.levelno >= logging.WARNING:
            self.console.print(Text(record.getMessage()))
        else:
            self.status.update(Text(record.getMessage()))


@contextmanager
def told(logger: str) -> Iterator[None]:
    """Show what `logger` is told; its level and handlers are as before afterwards. Nothing moves off a terminal."""
    console = Console(stderr=True, highlight=False)
    log = logging.getLogger(logger)
    level = log.level
    status = Status("", console=console)
    handler = _OnStatus(status, console)
    log.addHandler(handler)
    log.setLevel(logging.INFO if console.is_terminal else logging.WARNING)
    try:
        if console.is_terminal:
            status.start()
        yield
    finally:
        status.stop()
        log.removeHandler(handler)
        log.setLevel(level)
