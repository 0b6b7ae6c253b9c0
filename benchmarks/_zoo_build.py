"""Building a network of the committed list, with random weights, and an example input for it."""

from __future__ import annotations

import warnings
from typing import Any

import _torchvision_stub  # noqa: F401
import torch
from torch import nn


def build(entry: dict[str, Any]) -> tuple[nn.Module, torch.Tensor]:
    """The network in eval mode and an input of the listed shape; the same seed for every run and arm."""
    source, _, name = entry["name"].partition(":")
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = _BUILDERS[source](name, entry["kwargs"]).eval()
    return model, torch.randn(entry["input"], generator=torch.Generator().manual_seed(1))


def _pytorchcv(name: str, kwargs: dict[str, Any]) -> nn.Module:
    from pytorchcv.model_provider import get_model

    return get_model(name, **kwargs)


def _torchvision(name: str, kwargs: dict[str, Any]) -> nn.Module:
    import torchvision

    return torchvision.models.get_model(name, weights=None, **kwargs)


def _timm(name: str, kwargs: dict[str, Any]) -> nn.Module:
    import timm

    return timm.create_model(name, **kwargs)


_BUILDERS = {"pytorchcv": _pytorchcv, "torchvision": _torchvision, "timm": _timm}
