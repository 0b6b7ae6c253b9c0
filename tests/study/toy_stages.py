"""Kinds of stages small enough to work out by hand; imported by the tests and by their worker processes."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import torch

from torchbonsai.core.errors import DataError
from torchbonsai.study.stage import Context, Inputs, Output, runs


@dataclass(frozen=True)
class Number:
    value: int


@dataclass(frozen=True)
class Clamp:
    """The parent's number, at most `limit`."""

    limit: int


@dataclass(frozen=True)
class Sum:
    """The sum of all parents, and a tensor of that length. seconds: how long it takes."""

    seconds: float = 0.0


@dataclass(frozen=True)
class Fail:
    how: str


@dataclass(frozen=True)
class Alone:
    name: str


@runs(Number, "toy-number", version=1)
def number(config: Number, inputs: Inputs, context: Context) -> Output:
    _note(context, f"number {config.value}")
    return Output({"value": config.value})


@runs(Clamp, "toy-clamp", version=1)
def clamp(config: Clamp, inputs: Inputs, context: Context) -> Output:
    _note(context, f"clamp {config.limit}")
    return Output({"value": min(config.limit, inputs["of"].result["value"])})


@runs(Sum, "toy-sum", version=1)
def total(config: Sum, inputs: Inputs, context: Context) -> Output:
    value = sum(parent.result["value"] for parent in inputs.values())
    _note(context, f"sum {value}")
    context.progress(1, 2, "half-way")
    print("what a stage prints is no answer")
    time.sleep(config.seconds)
    generator = torch.Generator().manual_seed(value)
    return Output({"value": value}, {"t": torch.rand(value, generator=generator)}, {"pid": os.getpid()})


@runs(Fail, "toy-fail", version=1)
def fail(config: Fail, inputs: Inputs, context: Context) -> Output:
    if config.how == "expected":
        raise DataError("the file must be whole")
    if config.how == "die":
        os._exit(9)
    raise ZeroDivisionError("nobody foresaw this")


@runs(Alone, "toy-alone", version=1, exclusive=True)
def alone(config: Alone, inputs: Inputs, context: Context) -> Output:
    _note(context, f"alone {config.name} {time.time()}")
    time.sleep(0.05)
    return Output({"value": 0}, timing={"end": time.time()})


def _note(context: Context, text: str) -> None:
    """A line in the log whose path the test gave: which handlers really ran, in any process."""
    if "log" in context.places:
        with open(context.places["log"], "a", encoding="utf-8") as stream:
            stream.write(text + "\n")
