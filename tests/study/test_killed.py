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

import torchbonsai as tb
from torchbonsai.study.about import read_study

SETTINGS = {
    "starts": "untrained,trained",
    "methods": "l1",
    "budgets": "4x",
    "seeds": 1,
    "epochs": 2,
    "limit_train": 128,
    "fairness": "equal-epochs",
}


def start(out: Path) -> subprocess.Popen[bytes]:
    flags = [text for name, value in SETTINGS.items() for text in ("--" + name.replace("_", "-"), str(value))]
    command = [sys.executable, "-m", "torchbonsai", "compare", *flags, "--workers", "2", "--json", "--out", str(out)]
    path = os.pathsep.join(p or os.getcwd() for p in sys.path)
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        # a shell that starts the tests in the background leaves Ctrl-C ignored, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
    )


def stages(out: Path) -> int:
    return len(list(out.glob("stages/*/record.json")))


def wait_for(process: subprocess.Popen[bytes], out: Path, count: int, delay: float) -> None:
    """Until `count` stages are done and `delay` seconds have passed, or the process has ended by itself."""
    while stages(out) < count and process.poll() is None:
        time.sleep(0.005)
    time.sleep(delay)


@pytest.mark.slow
def test_interrupted_and_killed_at_random_moments(tmp_path: Path) -> None:
    chance = random.Random(20)
    broken = tmp_path / "broken"

    process = start(broken)
    wait_for(process, broken, 2, 0)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "bonsai compare" in stderr.decode()
    assert "Traceback" not in stderr.decode()

    process = start(broken)
    wait_for(process, broken, stages(broken) + 4, chance.uniform(0, 0.3))
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)  # workers hold the pipes: this returns when they are gone too
    assert not (broken / "study.json").exists()

    process = start(broken)
    _, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr.decode()
    unbroken = tb.study.compare(**SETTINGS, workers=0, out=tmp_path / "unbroken")
    assert [r.lasting() for r in read_study(broken).records] == [r.lasting() for r in unbroken]
    assert list(broken.glob("**/checkpoint.safetensors")) == []
