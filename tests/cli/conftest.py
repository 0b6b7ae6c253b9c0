"""Running a command in this process, and a module of a user's own; factories are shared with the study's tests."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from torchbonsai.cli.main import main

sys.path.insert(0, str(Path(__file__).parents[1] / "study"))

NETS = '''
import torch
from torch import nn


class Baked(nn.Module):
    """Widths written into the forward."""

    def __init__(self):
        super().__init__()
        self.first, self.stem = nn.Conv2d(3, 10, 1), nn.Conv2d(10, 14, 3, padding=1)
        self.left, self.right = nn.Conv2d(4, 6, 1), nn.Conv2d(10, 6, 1)
        self.head = nn.Linear(6 * 16, 4)

    def forward(self, x):
        left, right = self.stem(self.first(x)).relu().split([4, 10], 1)
        return self.head((self.left(left) + self.right(right)).relu().view(-1, 6 * 16))


class Mixed(nn.Module):
    """Channels in the order of their values: what is sorted stays whole."""

    def __init__(self):
        super().__init__()
        self.stem, self.last = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(torch.sort(self.stem(x), 1).values)


def baked(in_shape=(3, 4, 4)):
    return Baked()


def mixed():
    return Mixed()


def grouped():
    return nn.Sequential(nn.Linear(5, 12), nn.GroupNorm(3, 12), nn.Linear(12, 2))


def raises():
    raise KeyError("no such layer")
'''


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str


@pytest.fixture
def bonsai(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Said]:
    """bonsai("prune lenet …") in an empty folder that holds `command_nets.py`; a wrong option too gives a code."""
    (tmp_path / "command_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def run(line: str) -> Said:
        try:
            code = main(shlex.split(line))
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return run


@pytest.fixture
def untouched(tmp_path: Path) -> Callable[[], list[str]]:
    """What lies in the working folder beside the module of the user's own."""
    return lambda: sorted(p.name for p in tmp_path.iterdir() if p.name not in ("command_nets.py", "__pycache__"))
