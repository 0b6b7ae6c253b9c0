"""`measure`: what networks cost side by side: MACs, parameters, bytes, peak memory, latency under several runtimes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch

from torchbonsai.artifacts.given import GivenModel
from torchbonsai.artifacts.inputs import as_inputs, describe, random_example
from torchbonsai.core.errors import ArtifactError, ConfigError, message
from torchbonsai.cost.latency import Latency, device_name
from torchbonsai.cost.layer import Layer
from torchbonsai.cost.macs import CostModel
from torchbonsai.cost.memory import model_bytes, peak_bytes
from torchbonsai.cost.runtime import Layout, Loaded, Target, runtime_named, runtime_names
from torchbonsai.cost.tape import record
from torchbonsai.cost.timing import Arm, Times, in_turns, speed_ratio
from torchbonsai.graph.trace import observe

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much."""
MULTIPLE = 8
"""A width that is no multiple of it leaves part of every vector register empty."""
_PICTURE = 4
"""A layer with so few inputs reads a picture."""


@dataclass(frozen=True)
class Size:
    """What a network costs by counting: macs of one input; peak_bytes at each batch size, in the order asked for.

    odd_macs: the share of the layers' MACs in layers with a width that is no multiple of 8.
    """

    model: str
    weights: str
    macs: int
    params: int
    model_bytes: int
    peak_bytes: tuple[int, ...]
    odd_macs: float


@dataclass(frozen=True)
class Timed:
    """One network under one runtime. latency: None where it could not be run, and `reason` says why.

    speed_up: against the first network under the same conditions, the median over rounds in which both took turns.
    """

    model: str
    runtime: str
    layout: Layout
    batch: int
    threads: int
    latency: Latency | None
    speed_up: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Measured:
    """sizes: a network each. timings: in the order measured. missing: runtimes that are not installed, and the way."""

    sizes: tuple[Size, ...]
    timings: tuple[Timed, ...]
    batches: tuple[int, ...]
    versions: dict[str, str]
    missing: tuple[str, ...] = ()
    device: str = "cpu"


def measure(
    models: Sequence[GivenModel],
    *,
    runtimes: Sequence[str] = (),
    batches: Sequence[int] = (1,),
    threads: Sequence[int] = (),
    layouts: Sequence[Layout] = ("contiguous",),
    seconds: float = 0.5,
    device: str = "cpu",
    on_progress: Progress | None = None,
) -> Measured:
    """Count and time `models`; all that share a batch size and a number of threads are timed in turns.

    runtimes: default all that are installed; one that is named must be. threads: default PyTorch's number. layouts:
    of pictures, for the runtimes that leave the choice. seconds: of timed passes, for each arm. A network that a
    runtime cannot run has a `reason` in place of a latency.

    Raises ConfigError for settings that make no sense, ArtifactError for a named runtime that is not installed.
    """
    _check(models, batches, threads, seconds)
    tell = on_progress or (lambda what, done, of: None)
    chosen, missing = _runtimes(runtimes)
    inputs = [[_of_batch(given, batch) for batch in batches] for given in models]
    sizes = []
    for number, (given, examples) in enumerate(zip(models, inputs, strict=True)):
        tell(f"counting {given.name}", number, len(models))
        sizes.append(_size(given, examples))
    shelf = _load(models, chosen, layouts, device, tell)
    timings: list[Timed] = []
    for k, batch in enumerate(batches):
        examples = [of_model[k] for of_model in inputs]
        for count in threads or (torch.get_num_threads(),):
            timings += _timed(shelf, examples, batch, count, seconds, tell)
    versions = {name: version for runtime in chosen for name, version in runtime_named(runtime).versions().items()}
    return Measured(tuple(sizes), tuple(timings), tuple(batches), versions, missing, device)


@dataclass(frozen=True, eq=False)
class _Shelved:
    """A network under a runtime, or why it is not there."""

    number: int
    model: str
    target: Target
    loaded: Loaded | None
    reason: str = ""


def _load(
    models: Sequence[GivenModel], runtimes: Sequence[str], layouts: Sequence[Layout], device: str, tell: Progress
) -> list[_Shelved]:
    """Every network under every runtime and layout. ONNX Runtime chooses its layout itself: it is there once."""
    targets = [Target(device, name, layout) for name in runtimes for layout in _layouts(name, layouts)]
    shelf: list[_Shelved] = []
    for target in targets:
        for number, given in enumerate(models):
            tell(f"{given.name} into {target}", len(shelf), len(targets) * len(models))
            try:
                loaded = runtime_named(target.runtime).load(given.model, given.inputs, target)
                shelf.append(_Shelved(number, given.name, target, loaded))
            except ArtifactError as error:
                shelf.append(_Shelved(number, given.name, target, None, _brief(error)))
    return shelf


def _timed(
    shelf: list[_Shelved], examples: list[Any], batch: int, threads: int, seconds: float, tell: Progress
) -> list[Timed]:
    arms: dict[int, Arm] = {}
    reasons = {i: entry.reason for i, entry in enumerate(shelf) if entry.loaded is None}
    for i, entry in enumerate(shelf):
        if entry.loaded is None:
            continue
        tell(f"{entry.model} on {entry.target}, batch {batch}", i, len(shelf))
        try:
            arms[i] = Arm(entry.loaded.bind(examples[entry.number], threads), threads)
            with torch.inference_mode():
                arms[i].run()
        except ArtifactError as error:
            reasons[i] = _brief(error)
        except Exception as error:  # noqa: BLE001 - whatever a runtime raises belongs beside the others' numbers
            arms.pop(i, None)
            reasons[i] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    what = f"timing {len(arms)} arms in turns, batch {batch}, {threads} thread(s)"
    found = in_turns(list(arms.values()), seconds=seconds, on_round=lambda done, of: tell(what, done, of))
    times = dict(zip(arms, found, strict=True))
    return [_row(shelf, i, times, reasons, batch, threads) for i in range(len(shelf))]


def _row(
    shelf: list[_Shelved], i: int, times: dict[int, Times], reasons: dict[int, str], batch: int, threads: int
) -> Timed:
    entry = shelf[i]
    target = entry.target
    row = Timed(entry.model, target.runtime, target.layout, batch, threads, None, reason=reasons.get(i, ""))
    if i not in times:
        return row
    p10, median, p90 = times[i].percentiles_ms(10, 50, 90)
    chip = device_name(torch.device(target.device))
    latency = Latency(p10, median, p90, len(times[i].seconds), times[i].runs_per_block, chip, threads, target.runtime)
    first = next(j for j, other in enumerate(shelf) if other.target == target and other.number == 0)
    return replace(row, latency=latency, speed_up=speed_ratio(times[first], times[i]) if first in times else None)


def _size(given: GivenModel, examples: list[Any]) -> Size:
    cost = CostModel(observe(given.model, given.inputs)).dense
    layers = [layer for layer, _ in record(given.model, given.inputs).layers.values()]
    weighed = [(_weight(layer), _odd(layer)) for layer in layers]
    odd = sum(w for w, is_odd in weighed if is_odd) / max(sum(w for w, _ in weighed), 1)
    peaks = tuple(peak_bytes(given.model, example) for example in examples)
    return Size(given.name, given.weights, cost.macs, cost.params, model_bytes(given.model), peaks, odd)


def _weight(layer: Layer) -> int:
    """MACs, up to what the stride makes of them: good for a share."""
    return (
        layer.rows
        * layer.inputs
        * layer.outputs
        * prod(layer.size)
        * prod(layer.kernel)
        // max(prod(layer.stride) * (layer.groups or layer.inputs), 1)
    )


def _odd(layer: Layer) -> bool:
    return (layer.inputs > _PICTURE and layer.inputs % MULTIPLE > 0) or layer.outputs % MULTIPLE > 0


def _runtimes(named: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(what to measure on, why others are left out)."""
    if named:
        for name in named:
            runtime_named(name)
        return tuple(dict.fromkeys(named)), ()
    found, missing = [], []
    for name in runtime_names():
        try:
            runtime_named(name)
            found.append(name)
        except ArtifactError as error:
            missing.append(f"{name} was not measured: {_brief(error)}")
    return tuple(found), tuple(missing)


def _layouts(runtime: str, layouts: Sequence[Layout]) -> tuple[Layout, ...]:
    return ("contiguous",) if runtime == "onnxruntime" else tuple(dict.fromkeys(layouts))


def _of_batch(given: GivenModel, batch: int) -> Any:
    return as_inputs(random_example(describe(given.inputs), batch=batch))


def _brief(error: Exception) -> str:
    """What was received, and the way out."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line.partition(": ")[2] for line in lines if line.startswith(("received: ", "way out: "))]
    return "; ".join(kept) or str(error)


def _check(models: Sequence[GivenModel], batches: Sequence[int], threads: Sequence[int], seconds: float) -> None:
    names = [given.name for given in models]
    if not models or len(set(names)) < len(names):
        raise _wrong("at least one model, each once", f"{names}", "name each model once")
    if not batches or min((*batches, *threads, 1)) < 1:
        raise _wrong("batch sizes and threads of at least 1", f"{batches}, {threads}", "leave the zero out")
    if not seconds > 0:
        raise _wrong("a time above 0 s for each arm", f"{seconds}", "give 0.5")


def _wrong(must: str, got: str, way_out: str) -> ConfigError:
    return ConfigError(message(f"measuring needs {must}", got, "a typing error", way_out))
