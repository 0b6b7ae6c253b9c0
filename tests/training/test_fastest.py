"""Choosing an arithmetic by measurement: the time of a whole training decides, and nothing is assumed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from torchbonsai.core.errors import ConfigError
from torchbonsai.data import Splits, normalise
from torchbonsai.training import TrainConfig, fastest
from torchbonsai.training.fastest import CANDIDATES, Arithmetic, Measured, measure

pytestmark = pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")
FLOAT32, COMPILED = Arithmetic(), Arithmetic(compile=True)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastest, "SECONDS", 0.2)


@pytest.fixture
def batch(splits: Splits) -> tuple[Tensor, Tensor]:
    return normalise(splits.train.x, splits), splits.train.y


class Slow(nn.Module):
    """So many seconds longer in each arithmetic; refuses what it is told to refuse."""

    def __init__(self, seconds: Callable[[torch.dtype, bool], float]) -> None:
        super().__init__()
        self.seconds, self.layer = seconds, nn.Conv2d(2, 3, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        time.sleep(self.seconds(y.dtype, x.is_contiguous(memory_format=torch.channels_last)))
        return y.flatten(1)


def test_compiling_pays_when_the_training_is_long() -> None:
    measured = [Measured(FLOAT32, 1.0, 1.0), Measured(COMPILED, 30.0, 0.5), Measured(CANDIDATES[2], note="no")]
    assert fastest.fastest(measured, 50).arithmetic == FLOAT32
    assert fastest.fastest(measured, 100).arithmetic == COMPILED
    assert measured[1].training_seconds(100) == 30 + 99 * 0.5
    assert measured[2].training_seconds(1) == math.inf


def test_the_fastest_is_found_and_short_trainings_are_not_compiled(batch: tuple[Tensor, Tensor]) -> None:
    def seconds(dtype: torch.dtype, channels_last: bool) -> float:
        return 0.001 if (dtype, channels_last) == (torch.bfloat16, True) else 0.3

    before = torch.get_rng_state()
    measured = measure(lambda: Slow(seconds), batch, TrainConfig(1), 3, steps=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert [m.arithmetic for m in measured] == list(CANDIDATES)
    assert fastest.fastest(measured, 3).arithmetic == Arithmetic("bf16", channels_last=True)
    for m in measured:
        assert (m.step_seconds is None) == m.arithmetic.compile
        assert ("compiling takes" in m.note) == m.arithmetic.compile


def test_what_does_not_run_here_is_said_and_not_chosen(batch: tuple[Tensor, Tensor]) -> None:
    def seconds(dtype: torch.dtype, channels_last: bool) -> float:
        if dtype == torch.bfloat16:
            raise RuntimeError("no bfloat16 on this device")
        return 0.0

    measured = measure(lambda: Slow(seconds), batch, TrainConfig(1), 3, steps=3)
    notes = {m.arithmetic: m.note for m in measured}
    assert "no bfloat16" in notes[Arithmetic("bf16")]
    assert (
        "no bfloat16" in notes[Arithmetic("bf16", compile=True)]
        or "compiling" in notes[Arithmetic("bf16", compile=True)]
    )
    assert fastest.fastest(measured, 3).arithmetic.precision == "float32"


def test_where_not_even_float32_runs_the_error_is_its_own(batch: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ConfigError, match="classes"):
        measure(lambda: Slow(lambda dtype, last: 0.0), batch, TrainConfig(1), 4, steps=10)


def test_a_long_training_has_its_compiled_candidates_measured(
    batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a compiler that costs nothing, so that it must be tried everywhere."""
    compile_of_torch = torch.compile
    monkeypatch.setattr(torch, "compile", lambda m, **kwargs: compile_of_torch(m, backend="eager", **kwargs))
    monkeypatch.setattr(fastest, "HOPELESS", math.inf)
    monkeypatch.setattr(fastest, "UNLIKELY", math.inf)
    config = replace(TrainConfig(1), batch_size=53)
    measured = measure(lambda: nn.Sequential(nn.Flatten(), nn.Linear(32, 3)), batch, config, 3, steps=10**6)
    assert [(m.note, m.step_seconds is None) for m in measured] == [("", False)] * 8


def test_what_compiling_could_not_bring_to_the_front_is_not_compiled(
    batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a compiler that gains nothing: whatever is more than 1.5 times slower than the best has no chance."""
    monkeypatch.setattr(torch, "compile", lambda m, **kwargs: m)
    quick = Arithmetic("bf16", channels_last=True)

    def seconds(dtype: torch.dtype, channels_last: bool) -> float:
        return 0.02 if (dtype, channels_last) == (torch.bfloat16, True) else 0.12

    measured = {m.arithmetic: m for m in measure(lambda: Slow(seconds), batch, TrainConfig(1), 3, steps=10**6)}
    assert measured[replace(quick, compile=True)].step_seconds is not None
    for arithmetic in CANDIDATES:
        eager = replace(arithmetic, compile=False)
        assert measured[eager].step_seconds is not None
        assert ("times as fast" in measured[arithmetic].note) == (arithmetic.compile and eager != quick)
