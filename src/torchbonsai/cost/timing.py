"""Timing several arms in turns, so that a drift of the machine hits all of them alike."""

from __future__ import annotations

import math
import timeit
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.benchmark import timer as clock

from torchbonsai.cost.runtime import Run

BLOCK_SECONDS = 0.02
"""A block of passes lasts at least so long, so that the clock and the timer's overhead do not show."""
LEAST_ROUNDS = 5


@dataclass(frozen=True)
class Arm:
    """What is timed; threads: of PyTorch's operators (a runtime with threads of its own was given them before)."""

    run: Run
    threads: int


@dataclass(frozen=True, eq=False)
class Times:
    """seconds: of one pass, a mean over each block of `runs_per_block` passes."""

    seconds: tuple[float, ...]
    runs_per_block: int

    @property
    def median(self) -> float:
        """In seconds."""
        return float(np.median(self.seconds))

    def percentiles_ms(self, *percents: float) -> tuple[float, ...]:
        """Of the blocks, in milliseconds."""
        return tuple(float(v) for v in np.percentile(np.asarray(self.seconds) * 1e3, percents))


def in_turns(
    arms: Sequence[Arm], *, seconds: float = 0.5, on_round: Callable[[int, int], None] | None = None
) -> list[Times]:
    """Every arm once a round, `seconds` of each in all and at least five rounds, after one pass that is not counted.

    on_round: called with (rounds done, rounds in all).
    """
    with torch.inference_mode():
        first = [max(_warm(arm), 1e-9) for arm in arms]
        blocks = [max(1, math.ceil(BLOCK_SECONDS / once)) for once in first]
        slowest = max((once * block for once, block in zip(first, blocks, strict=True)), default=1.0)
        rounds = max(LEAST_ROUNDS, math.ceil(seconds / max(slowest, BLOCK_SECONDS)))
        found: list[list[float]] = [[] for _ in arms]
        for done in range(rounds):
            for arm, block, times in zip(arms, blocks, found, strict=True):
                times.append(_seconds(arm, block))
            if on_round is not None:
                on_round(done + 1, rounds)
    return [Times(tuple(times), block) for times, block in zip(found, blocks, strict=True)]


def _warm(arm: Arm) -> float:
    """Seconds of a pass that is not the first."""
    _seconds(arm, 1)
    return _seconds(arm, 1)


def _seconds(arm: Arm, runs: int) -> float:
    """Of a pass, the mean of `runs`, by the clock that waits for a GPU.

    PyTorch's own Timer would run two passes more before each block, which triples the time of a slow network.
    """
    before = torch.get_num_threads()
    if before != arm.threads:
        torch.set_num_threads(arm.threads)
    try:
        return timeit.Timer(arm.run, timer=clock).timeit(runs) / runs
    finally:
        if before != arm.threads:
            torch.set_num_threads(before)


def speed_ratio(before: Times, after: Times) -> float:
    """How many times faster `after` is: the median over rounds of both arms' times in the same round."""
    pairs = zip(before.seconds, after.seconds, strict=True)
    return float(np.median([a / b for a, b in pairs]))
