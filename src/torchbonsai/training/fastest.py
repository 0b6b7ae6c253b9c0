"""The fastest arithmetic on this device for one network: measured by training steps, never assumed.

bf16 is twice as fast as float32 on a CPU with instructions for it and several times slower on one without; whether
compiling pays depends on how long the training is. So every candidate takes real steps, in turns, and the time of a
whole training decides: the first step (with torch.compile: the compilation, nothing read from its caches) plus all
others.
"""

from __future__ import annotations

import contextlib
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import torch
from torch import Tensor, nn

from torchbonsai.core.errors import ConfigError
from torchbonsai.training.compiled import compiled
from torchbonsai.training.config import Precision, TrainConfig
from torchbonsai.training.loop import make_optimizer, step
from torchbonsai.training.modes import laid_out, memory_format, seeded

SECONDS, ROUNDS = 4.0, 10
"""Steps are repeated so often, or so long; after one more each, that is not counted."""
HOPELESS = 3.0
"""A candidate so many times slower than the best is measured once only."""
UNLIKELY = 1.5
"""Compiling gains no arithmetic so many times more than what it gains the one that is fastest without."""
SMALL_LR = 1e-4
"""The same batch at every step: at a usual rate weights could become infinite, and steps slower or faster."""
SHORTEST_COMPILATION = 5.0
"""A training that takes fewer seconds is over before even the smallest network is compiled."""


@dataclass(frozen=True)
class Arithmetic:
    """What may be chosen freely: each changes results by rounding only."""

    precision: Precision = "float32"
    channels_last: bool = False
    compile: bool = False

    @property
    def name(self) -> str:
        """In words."""
        layout = "channels_last" if self.channels_last else "contiguous"
        return f"{self.precision}, {layout}, {'compiled' if self.compile else 'eager'}"


PRECISIONS: tuple[Precision, ...] = ("float32", "bf16")
CANDIDATES = tuple(Arithmetic(p, last, code) for p, last, code in product(PRECISIONS, (False, True), (False, True)))


@dataclass(frozen=True)
class Measured:
    """first_seconds: of the first step. step_seconds: median of the others. note: why it was not measured further."""

    arithmetic: Arithmetic
    first_seconds: float | None = None
    step_seconds: float | None = None
    note: str = ""

    def training_seconds(self, steps: int) -> float:
        """Of a whole training; infinite where it was not measured."""
        if self.first_seconds is None or self.step_seconds is None:
            return float("inf")
        return self.first_seconds + (steps - 1) * self.step_seconds


def fastest(measured: Sequence[Measured], steps: int) -> Measured:
    """The one that ends a training of so many steps first; of equals the earlier, which is the plainer."""
    return min(measured, key=lambda m: m.training_seconds(steps))


def measure(
    build: Callable[[], nn.Module], batch: tuple[Tensor, Tensor], config: TrainConfig, classes: int, steps: int
) -> list[Measured]:
    """Every candidate, in the order of `CANDIDATES`, for trainings of so many `steps` of `config`.

    build: makes the network on its device, afresh for each candidate. batch: normalised images and their classes, on
    the same device. A candidate that does not run here, or cannot win, has a note instead of a time. The global
    random state is left as found. Raises the plainest candidate's own error where not even that runs.
    """
    device = batch[0].device
    with seeded(config.seed, device), contextlib.ExitStack() as stack:
        arms = {a: _Arm(a, config, batch, classes) for a in CANDIDATES}
        eager = [arms[a] for a in CANDIDATES if not a.compile]
        for arm in eager:
            arm.begin(build, stack)
        _in_turns(eager)
        best = min(eager, key=lambda arm: arm.result.training_seconds(steps))
        begun = [best]
        for arm in sorted(eager, key=lambda arm: arm.result.training_seconds(2)):
            twin = arms[replace(arm.arithmetic, compile=True)]
            twin.note = arm.note or _cannot_win(begun, best.result.training_seconds(steps)) or _too_far(arm, begun)
            if not twin.note:
                twin.begin(build, stack)
                begun.append(twin)
        _in_turns([arm for arm in begun if not arm.note])
    return [arm.result for arm in arms.values()]


def _cannot_win(begun: Sequence[_Arm], eager_seconds: float) -> str:
    """Why compiling need not be tried: begun[0] is the best eager candidate, the others were compiled."""
    compilations = [arm.first for arm in begun[1:] if arm.first is not None]
    shortest = min(compilations, default=SHORTEST_COMPILATION)
    if shortest < eager_seconds:
        return ""
    return f"compiling takes {shortest:.0f} s or more, a whole eager training {eager_seconds:.0f} s"


def _too_far(arm: _Arm, begun: Sequence[_Arm]) -> str:
    """Why the twin of `arm` need not be compiled: it is too slow for what compiling gained the best."""
    compiled = next((twin for twin in begun[1:] if not twin.note), None)
    if compiled is None:
        return ""
    if not compiled.times:
        compiled.times = [compiled.clocked(), compiled.clocked()]
    quickest = min(compiled.times)
    gained, wanted = (min(eager.times) / quickest for eager in (begun[0], arm))
    if wanted <= UNLIKELY * max(gained, 1.0):
        return ""
    return f"compiling would have to make it {wanted:.1f} times as fast, and makes the fastest {gained:.1f} times"


@dataclass(eq=False)
class _Arm:
    """One candidate at work."""

    arithmetic: Arithmetic
    config: TrainConfig
    batch: tuple[Tensor, Tensor]
    classes: int
    note: str = ""
    first: float | None = None
    times: list[float] = field(default_factory=list)
    _step: Callable[[], object] = lambda: None

    def begin(self, build: Callable[[], nn.Module], stack: contextlib.ExitStack) -> None:
        """Build, and take the first step, timed; a candidate that cannot gets a note."""
        plainest = self.arithmetic == CANDIDATES[0]
        try:
            self._begin(build(), stack)
        except (ConfigError, RuntimeError, NotImplementedError) as error:
            if plainest:
                raise
            self.note = f"does not run here: {' '.join(str(error).split())[:200]}"

    def _begin(self, model: nn.Module, stack: contextlib.ExitStack) -> None:
        a = self.arithmetic
        config = replace(
            self.config, precision=a.precision, channels_last=a.channels_last, compile=a.compile, lr=SMALL_LR
        )
        model.train().to(memory_format=memory_format(a.channels_last))  # type: ignore[call-overload]
        optimizer = make_optimizer(model, config)
        inputs, targets = laid_out(self.batch[0], a.channels_last), self.batch[1]
        forward = stack.enter_context(compiled(model, a.compile))
        self._step = lambda: step(forward, optimizer, inputs, targets, config, self.classes)
        with _no_cached_code(a.compile):
            self.first = self.clocked()

    def clocked(self) -> float:
        """Seconds of one step, the device waited for."""
        start = time.perf_counter()
        self._step()
        if self.batch[0].device.type == "cuda":
            torch.cuda.synchronize(self.batch[0].device)
        return time.perf_counter() - start

    @property
    def result(self) -> Measured:
        """What is known so far."""
        median = statistics.median(self.times) if self.times else None
        return Measured(self.arithmetic, self.first if self.times else None, median, self.note)


def _in_turns(arms: Sequence[_Arm]) -> None:
    """One step of every candidate, then again: what else the machine does meets all of them alike."""
    start = time.perf_counter()
    for number in range(ROUNDS + 1):
        best = min((min(arm.times) for arm in arms if arm.times), default=float("inf"))
        for arm in arms:
            if arm.note or (arm.times and min(arm.times) > HOPELESS * best):
                continue
            arm.times.append(arm.clocked())
        if number and time.perf_counter() - start > SECONDS:
            return


@contextlib.contextmanager
def _no_cached_code(wanted: bool) -> Iterator[None]:
    """What was compiled before in other processes is compiled again, as it is for every network that is new."""
    if not wanted:
        yield
        return
    import torch._inductor.config as inductor

    with inductor.patch(force_disable_caches=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="dynamo_pgo force disabled")  # as it should be
        yield
