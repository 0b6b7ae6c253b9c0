"""`bonsai measure`: several networks side by side: what they cost by counting, and by the clock."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from torchbonsai.artifacts.given import given_model
from torchbonsai.artifacts.measure import Measured, measure
from torchbonsai.artifacts.measure import Progress as Tell
from torchbonsai.core.config import write_atomic
from torchbonsai.report import measured as words
from torchbonsai.report.console import make_console

Models = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL…")]


@dataclass(frozen=True)
class Arguments:
    """MACs, parameters, bytes, peak activation memory and latency of one or several models, side by side.

    The first is what the others are compared with: dense first, then the small ones. All are timed in turns, so that
    a drift of the machine hits all alike.
    """

    models: Models
    """Names of our zoo, timm:NAME, torchvision:NAME, hf:ID, package.module:factory, or saved folders."""
    runtimes: tuple[Literal["eager", "compile", "onnxruntime"], ...] = ()
    """Default: all that are installed."""
    batches: tuple[int, ...] = (1,)
    """Batch sizes."""
    threads: tuple[int, ...] = ()
    """Numbers of threads. Default: PyTorch's."""
    layouts: tuple[Literal["contiguous", "channels_last"], ...] = ("contiguous",)
    """How pictures and their weights lie in memory; ONNX Runtime chooses itself."""
    seconds: float = 0.5
    """Of timed passes for each arm, in at least 5 rounds."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where PyTorch's runtimes run."""
    pretrained: bool = False
    """Load the weights that the library's authors trained."""
    input: tuple[str, ...] = ()
    """Shape of each input, batch first: 1,3,224,224. Needed where the size is unknown; the same for all models."""
    classes: int | None = None
    """Classes of the head, where it is not the usual number."""
    seed: int = 0
    """Of random weights and inputs."""
    json: bool = False
    """Print JSON."""
    png: Path | None = None
    """Draw the latencies into this file."""
    svg: Path | None = None
    """The same as SVG."""


def run(arguments: Arguments) -> int:
    """Build, measure, tell. Files are written at the end, whole or not at all."""
    models = [
        given_model(
            name,
            pretrained=arguments.pretrained,
            inputs=arguments.input,
            classes=arguments.classes,
            seed=arguments.seed,
        )
        for name in arguments.models
    ]
    with told() as tell:
        found = measure(
            models,
            runtimes=arguments.runtimes,
            batches=arguments.batches,
            threads=arguments.threads or (torch.get_num_threads(),),
            layouts=arguments.layouts,
            seconds=arguments.seconds,
            device=arguments.device,
            on_progress=tell,
        )
    for path, form in ((arguments.png, "png"), (arguments.svg, "svg")):
        if path is not None:
            write_atomic(path, words.picture(found, form))
    if arguments.json:
        json.dump(words.as_json(found), sys.stdout, indent=1)
        print()
    else:
        show(found)
    return 0


def show(found: Measured) -> None:
    """Two tables, what they mean, what they were measured with."""
    console = make_console()
    console.print(words.sizes_table(found))
    console.print()
    console.print(words.timings_table(found))
    console.print()
    for sentence in words.sentences(found):
        console.print(Text(sentence), soft_wrap=True)
    console.print(Text(words.spec(found), style="dim"), soft_wrap=True)


@contextmanager
def told() -> Iterator[Tell]:
    """A bar on the terminal; nothing where the output of errors is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=1)
        yield lambda what, done, of: bar.update(task, description=what, completed=done, total=of)
