"""A study that is killed at any moment goes on, and ends with the records of an unbroken one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from torchbonsai.study.about import read_study

SETTINGS = [
    *("--starts", "untrained", "trained", "--methods", "l1", "apoz", "--budgets", "4x", "--seeds", "1"),
    *("--epochs", "2", "--limit-train", "200", "--fairness", "equal-epochs", "--workers", "2", "--json"),
]


def start(out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "torchbonsai", "compare", *SETTINGS, "--out", str(out)]
    path = os.pathsep.join(p or os.getcwd() for p in sys.path)
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    )


def stages(out: Path) -> int:
    return len(list(out.glob("stages/*/record.json")))


def kill_after(out: Path, count: int, delay: float) -> None:
    """SIGKILL the study once `count` stages are done and `delay` seconds have passed."""
    process = start(out)
    while stages(out) < count and process.poll() is None:
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()  # workers hold the pipes: this returns when they are gone too


def finish(out: Path) -> None:
    process = start(out)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr.decode()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    out = tmp_path_factory.mktemp("unbroken")
    finish(out)
    return [r.lasting() for r in read_study(out).records]


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path, unbroken: list[dict[str, object]]) -> None:
    chance = random.Random(20)
    done = 0
    for more in (1, 5, 9):
        kill_after(tmp_path, done + more, chance.uniform(0, 0.3))
        assert not (tmp_path / "study.json").exists()
        done = stages(tmp_path)
    assert done > 0
    finish(tmp_path)
    assert [r.lasting() for r in read_study(tmp_path).records] == unbroken
    assert list(tmp_path.glob("**/checkpoint.safetensors")) == []


@pytest.mark.slow
def test_interrupted_says_how_to_go_on(tmp_path: Path) -> None:
    process = start(tmp_path)
    while stages(tmp_path) < 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "bonsai compare" in stderr.decode()
    assert "Traceback" not in stderr.decode()
