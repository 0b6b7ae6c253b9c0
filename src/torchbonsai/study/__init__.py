"""Studies: stages with a memory on disk, one runner for everything long, fairness, controls and statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchbonsai.study.comparison import compare
    from torchbonsai.study.record import RunRecord

__all__ = ["RunRecord", "compare"]


def __getattr__(name: str) -> Any:
    """`compare` and `RunRecord`, imported on first use."""
    if name == "compare":
        from torchbonsai.study.comparison import compare

        return compare
    if name == "RunRecord":
        from torchbonsai.study.record import RunRecord

        return RunRecord
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
