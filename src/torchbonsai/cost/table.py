"""A measured table of layer latencies by width, one for a device, runtime, layout and number of threads.

Kept on disk, so that a layer that was timed once is never timed again: one JSON file, replaced atomically, its name a
hash of all that decides a time, versions of the runtime included. `TORCHBONSAI_CACHE` says where; the default is
`~/.cache/torchbonsai`. A file that cannot be read is measured anew, one that cannot be written is not kept; the log
(`logging`, "torchbonsai") says so.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from math import gcd
from pathlib import Path
from typing import Any

import torch

from torchbonsai.core.config import cache_folder, config_hash, write_atomic
from torchbonsai.cost.latency import device_name
from torchbonsai.cost.layer import Layer
from torchbonsai.cost.runtime import Runtime, Target, runtime_named

FORMAT = 1
LEAST_WIDTHS = 4
"""A multiple is halved for a group until it leaves so many widths to choose from."""
ALIGNMENTS = (1, 2, 4, 8, 16)
_BEST = ALIGNMENTS[-1]
_PROBE = Layer("conv", 1, 112, 112, (28, 28), (3, 3), (1, 1), (1, 1), (1, 1), output_padding=(0, 0))
_TOLERATED = 1.1
"""A multiple is fine where a MAC costs at most so much more than at multiples of 16."""
_SECONDS, _LEAST, _MOST = 0.02, 3, 30
log = logging.getLogger("torchbonsai")
Point = tuple[int, int]
Timer = Callable[[Layer, int, int], float]
"""(layer, inputs, outputs) -> milliseconds."""


class LayerTable:
    """Milliseconds of layers at (inputs, outputs); what is missing is measured when asked for."""

    def __init__(self, target: Target, threads: int, *, folder: Path | None = None, timer: Timer | None = None) -> None:
        """folder: where the file lies. timer: in place of the clock."""
        self.target, self.threads = target, threads
        self.runtime: Runtime = runtime_named(target.runtime)
        self.identity = {
            "format": FORMAT,
            "device": device_name(torch.device(target.device)),
            "target": str(target),
            "threads": threads,
            "versions": self.runtime.versions(),
        }
        self.path = (folder or cache_folder()) / f"latency-{config_hash(self.identity)}.json"
        self._timer = timer or self._clocked
        self._points: dict[str, dict[Point, float]] = _read(self.path, self.identity)

    def measure(self, wanted: Mapping[Layer, Iterable[Point]]) -> int:
        """Time what is missing, and keep it; returns how many points were timed."""
        missing = [(layer, p) for layer, points in wanted.items() for p in points if p not in self._of(layer)]
        for number, (layer, (inputs, outputs)) in enumerate(missing):
            if (inputs, outputs) not in self._of(layer):  # two layers may be alike
                log.info("%s: timing layers, %d of %d", self.target, number + 1, len(missing))
                self._of(layer)[inputs, outputs] = self._timer(layer, inputs, outputs)
        if missing:
            self._keep()
        return len(missing)

    def ms(self, layer: Layer, inputs: int, outputs: int) -> float:
        """Measured milliseconds at exactly these widths."""
        self.measure({layer: [(inputs, outputs)]})
        return self._of(layer)[inputs, outputs]

    @cached_property
    def multiple(self) -> int:
        """What widths should be multiples of: the smallest of 1, 2, 4, 8, 16 at which a MAC costs hardly more."""
        base = self._cost(_BEST)
        return next(a for a in ALIGNMENTS if self._cost(a) <= _TOLERATED * base)

    def multiple_for(self, size: int, least: int = LEAST_WIDTHS) -> int:
        """The multiple for a layer or group of this width: halved until it leaves `least` widths to choose from."""
        multiple = self.multiple
        while multiple > 1 and size < least * multiple:
            multiple //= 2
        return multiple

    def penalty(self, width: int) -> float:
        """How many times longer a layer takes at `width` than at the next of the device's multiples; at least 1."""
        return self._penalties[gcd(width, _BEST)]

    @cached_property
    def _penalties(self) -> dict[int, float]:
        base = self._cost(self.multiple)
        above = {a: -(-_width_of(a) // self.multiple) * self.multiple for a in ALIGNMENTS}
        return {a: max(1.0, self._cost(a) * _width_of(a) ** 2 / (base * above[a] ** 2)) for a in ALIGNMENTS}

    def _cost(self, alignment: int) -> float:
        """Time a MAC at a width that is a multiple of `alignment` and of no more."""
        self.measure({_PROBE: [(_width_of(a),) * 2 for a in ALIGNMENTS]})
        width = _width_of(alignment)
        return self.ms(_PROBE, width, width) / width**2

    def _of(self, layer: Layer) -> dict[Point, float]:
        return self._points.setdefault(layer.key, {})

    def _clocked(self, layer: Layer, inputs: int, outputs: int) -> float:
        """The quickest of several runs: what else the machine does only ever adds."""
        run = self.runtime.layer(layer, inputs, outputs, self.target, self.threads)
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                run()
                start, taken = time.perf_counter(), [run()]
                while len(taken) < _LEAST or (time.perf_counter() - start < _SECONDS and len(taken) < _MOST):
                    taken.append(run())
        finally:
            torch.set_num_threads(before)
        return min(taken) * 1e3

    def _keep(self) -> None:
        """Together with what another process has kept in the meantime."""
        for key, points in _read(self.path, self.identity).items():
            self._points[key] = points | self._points.get(key, {})
        told = {k: {f"{i},{o}": ms for (i, o), ms in points.items()} for k, points in self._points.items()}
        try:
            write_atomic(self.path, json.dumps({"identity": self.identity, "points": told}, indent=1))
        except OSError as error:
            log.warning("the table of layer latencies was not kept: %s", error)


def _width_of(alignment: int) -> int:
    """A width of the probe that is a multiple of `alignment` and of no higher power of two up to 16."""
    return _PROBE.inputs if alignment == _BEST else _PROBE.inputs - _BEST + alignment


def _read(path: Path, identity: dict[str, Any]) -> dict[str, dict[Point, float]]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["identity"] != identity:
            raise ValueError("another table's identity")
        return {key: {_point(text): float(ms) for text, ms in points.items()} for key, points in told["points"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("the table of layer latencies %s cannot be read, and is measured anew: %s", path.name, error)
        return {}


def _point(text: str) -> Point:
    inputs, _, outputs = text.partition(",")
    return int(inputs), int(outputs)
