"""Calling a model on example inputs, in eval mode, and leaving it as it was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def call(model: Callable[..., Any], inputs: Any) -> Any:
    """`model` on a Tensor, a tuple (or list) of positional inputs, or a dict of keyword inputs."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple | list):
        return model(*inputs)
    return model(inputs)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; outside, every module's own training flag again, whatever was raised."""
    flags = {module: module.training for module in model.modules()}
    if any(flags.values()):
        model.eval()
    try:
        yield
    finally:
        for module, training in flags.items():
            if module.training is not training:
                module.training = training


def device_of(model: nn.Module) -> torch.device:
    """The device of the first parameter or buffer; the CPU where the model has neither."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")
