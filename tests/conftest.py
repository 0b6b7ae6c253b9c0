"""Other libraries of networks, for the tests that need one: imported beside a CPU torch, or the test is skipped."""

from __future__ import annotations

import importlib
import warnings
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest
import torch

_SCHEMAS: list[Any] = []  # a torch.library.Library lives as long as it is held


def other_library(name: str) -> ModuleType:
    """The package, or a skip. torchvision's wheel needs two operators declared that only a CUDA torch brings."""
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    if not _SCHEMAS and find_spec("torchvision") is not None and not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _SCHEMAS.append(library)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


@pytest.fixture
def timm() -> ModuleType:
    """PyTorch Image Models."""
    return other_library("timm")


@pytest.fixture
def torchvision() -> ModuleType:
    """torchvision, beside whatever torch is there."""
    return other_library("torchvision")


@pytest.fixture
def pytorchcv() -> ModuleType:
    """pytorchcv."""
    return other_library("pytorchcv")
