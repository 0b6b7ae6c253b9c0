"""torchbonsai: make convolutional networks physically smaller by removing channels, exactly.

`import torchbonsai as tb` brings in the engine only (torch, numpy, scipy, safetensors). `tb.save`, `tb.load`,
`tb.study` and `tb.testing` load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torchbonsai import criteria
from torchbonsai.core.errors import (
    ArtifactError,
    BudgetError,
    ConfigError,
    DataError,
    PlanError,
    PruningError,
    TraceError,
    VerificationError,
)
from torchbonsai.graph.rules.user import rule
from torchbonsai.pruning import penalties, schedules
from torchbonsai.pruning.prune import PruneResult, prune, trace
from torchbonsai.pruning.pruner import Pruner
from torchbonsai.pruning.recalibrate import recalibrate
from torchbonsai.selection.budget import Budget

__version__ = "0.1.0"

_LAZY = {
    "save": ("torchbonsai.artifacts", "save"),
    "load": ("torchbonsai.artifacts", "load"),
    "study": ("torchbonsai.study", None),
    "testing": ("torchbonsai.testing", None),
    "models": ("torchbonsai.models", None),
    "data": ("torchbonsai.data", None),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'torchbonsai' has no attribute {name!r}")
    module, attribute = _LAZY[name]
    found = import_module(module)
    return found if attribute is None else getattr(found, attribute)


__all__ = [
    "ArtifactError",
    "Budget",
    "BudgetError",
    "ConfigError",
    "DataError",
    "PlanError",
    "PruneResult",
    "Pruner",
    "PruningError",
    "TraceError",
    "VerificationError",
    "criteria",
    "penalties",
    "prune",
    "recalibrate",
    "rule",
    "schedules",
    "trace",
]
