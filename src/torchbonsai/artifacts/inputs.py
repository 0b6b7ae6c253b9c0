"""Example inputs as data: shapes and dtypes, so that random ones can be made again, of any batch size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchbonsai.core.errors import ArtifactError, message
from torchbonsai.graph.forward import Example, as_examples


def describe(example_inputs: Any) -> dict[str, Any]:
    """Positional and keyword inputs of the (first) example as JSON data. Raises ArtifactError for what is not plain."""
    args, kwargs = as_examples(example_inputs)[0]
    return {"args": [_described(a) for a in args], "kwargs": {k: _described(v) for k, v in kwargs.items()}}


def random_example(described: dict[str, Any], *, batch: int | None = None, seed: int = 0) -> Example:
    """(positional, keyword) inputs: standard normal where floating, zeros where not, as these are often indices.

    batch: replaces the first axis of every tensor whose first axis is as long as the first tensor's. Raises
    ArtifactError for data that `describe` did not write.
    """
    generator = torch.Generator().manual_seed(seed)
    try:
        usual = _first_length([*described["args"], *described["kwargs"].values()])
        made = [_made(a, batch, usual, generator) for a in described["args"]]
        return tuple(made), {k: _made(v, batch, usual, generator) for k, v in described["kwargs"].items()}
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ArtifactError(
            message(
                "the folder must say which inputs its network takes",
                f"{described!r} ({type(error).__name__}: {error})",
                "a folder of another version",
                "give the shapes: --input 1,3,224,224",
            )
        ) from error


def as_inputs(example: Example) -> Any:
    """(positional, keyword) inputs in the form that `tb.prune` takes. Raises ArtifactError where both are in use."""
    args, kwargs = example
    if args and kwargs:
        raise _unplain("positional and keyword inputs at once")
    if kwargs:
        return kwargs
    return args[0] if len(args) == 1 and isinstance(args[0], Tensor) else args


def _described(value: Any) -> Any:
    if isinstance(value, Tensor):
        return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, tuple | list):
        return {"tuple" if isinstance(value, tuple) else "list": [_described(v) for v in value]}
    if isinstance(value, dict) and all(isinstance(k, str) for k in value):
        return {"dict": {k: _described(v) for k, v in value.items()}}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise _unplain(f"a {type(value).__name__}")


def _made(data: Any, batch: int | None, usual: int, generator: torch.Generator) -> Any:
    if "shape" in data:
        shape = list(data["shape"])
        if batch is not None and shape and shape[0] == usual:
            shape[0] = batch
        dtype = getattr(torch, data["dtype"])
        return (
            torch.randn(shape, generator=generator).to(dtype)
            if dtype.is_floating_point
            else torch.zeros(shape).to(dtype)
        )
    for kind in (tuple, list):
        if kind.__name__ in data:
            return kind(_made(v, batch, usual, generator) for v in data[kind.__name__])
    if "dict" in data:
        return {k: _made(v, batch, usual, generator) for k, v in data["dict"].items()}
    return data["value"]


def _first_length(data: Any) -> int:
    """The first axis of the first tensor that has one; 0 where there is none."""
    for one in data:
        if one.get("shape"):
            return int(one["shape"][0])
        inner = one.get("tuple") or one.get("list") or list((one.get("dict") or {}).values())
        if inner and (length := _first_length(inner)):
            return length
    return 0


def _unplain(got: str) -> ArtifactError:
    return ArtifactError(
        message(
            "example inputs must be tensors, plain values, and tuples, lists and dicts of these",
            got,
            "a forward that takes objects of a class of its own",
            "write a module around the network that takes tensors",
        )
    )
