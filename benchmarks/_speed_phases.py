"""Where the time of one `tb.prune(verify=False)` goes, by the clock, and what its passes cost at the least."""

from __future__ import annotations

import copy
import pkgutil
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

PHASES = {
    "passes of the large network": "torchbonsai.pruning.prune.observe",
    "scores": "torchbonsai.criteria.base.ScoringContext.resolve",
    "selection": "torchbonsai.pruning.prune.select",
    "surgery": "torchbonsai.surgery.settle.apply",
    "passes of the small network (proof)": "torchbonsai.surgery.settle.prove",
}
"""What is timed -> the function that does it."""


def phases(run: Callable[[nn.Module, torch.Tensor], nn.Module], model: nn.Module, x: torch.Tensor) -> dict[str, Any]:
    """Processor milliseconds of each phase and of all, by one run; ops of one eval pass, and what a bare pass costs.

    bare pass: the model's eval forward under a dispatch mode that does nothing else, on the meta device: what PyTorch's
    modules and dispatch cost before any channel is followed. `tb.prune` makes four passes: large and small, in eval
    and train mode.
    """
    spent: dict[str, float] = defaultdict(float)
    with ExitStack() as stack:
        for name, place in PHASES.items():
            stack.enter_context(_timed(place, name, spent))
        given = copy.deepcopy(model)
        started = time.process_time()
        run(given, x)
        total = time.process_time() - started
    ops, bare = _bare_pass(model, x)
    told = {name: round(1000 * spent[name], 1) for name in PHASES}
    rest = round(1000 * (total - sum(spent.values())), 1)
    return {**told, "rest": rest, "all": round(1000 * total, 1), "ops": ops, "bare pass": round(1000 * bare, 1)}


@contextmanager
def _timed(place: str, name: str, spent: dict[str, float]) -> Iterator[None]:
    real = pkgutil.resolve_name(place)

    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.process_time()
        try:
            return real(*args, **kwargs)
        finally:
            spent[name] += time.process_time() - started

    with mock.patch(place, timed):
        yield


class _Count(TorchDispatchMode):
    """Counts ops, and does nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.ops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ops += 1
        return func(*args, **(kwargs or {}))


def _bare_pass(model: nn.Module, x: torch.Tensor) -> tuple[int, float]:
    hollow, held = copy.deepcopy(model).to("meta").eval(), x.to("meta")
    seconds, mode = [], _Count()
    for _ in range(3):
        mode = _Count()
        started = time.process_time()
        with mode, torch.no_grad():
            hollow(held)
        seconds.append(time.process_time() - started)
    return mode.ops, statistics.median(seconds)
