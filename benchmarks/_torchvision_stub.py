"""Import this before torchvision, timm or pytorchcv: PyPI's torchvision has its operators for a CUDA build only.

Beside a CPU build of torch its import fails ("operator torchvision::nms does not exist"); with the two schemas defined,
everything but the detection operators works. Needed in tests and benchmarks alone.
"""

from __future__ import annotations

import importlib.util

import torch

_LIBRARY = None


def define_operators() -> None:
    """Define the schemas of torchvision's two operators that its import looks up, unless its own library is there."""
    global _LIBRARY
    if _LIBRARY is not None or hasattr(torch.ops.torchvision, "nms") or torch.version.cuda:
        return
    if importlib.util.find_spec("torchvision") is None:
        return
    _LIBRARY = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        _LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


define_operators()
