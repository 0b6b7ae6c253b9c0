"""Where channels lie in equal blocks (attention heads, groups of a group norm, maxout): which of two ways they leave.

Whole blocks, or the same positions inside every block. The user says, by module; else a pass takes what leaves more
atoms to choose from, and the other way where that ties all of them together or cannot be proved.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from torchbonsai.graph.channel_graph import Blocks, Ints, Way
from torchbonsai.graph.evidence import Evidence
from torchbonsai.graph.outputs import Narrow
from torchbonsai.graph.record import OpRecord


@dataclass(frozen=True)
class Asked:
    """What the user asked of a trace. outputs: those that may lose channels. blocks: see `Blocks`."""

    outputs: Narrow = False
    blocks: Blocks = field(default_factory=dict)


def collapsed(evidence: Evidence) -> dict[str, Way]:
    """Module -> the other way, where the way taken left one atom of many channels and nobody asked for it."""
    component = evidence.solution.component
    found: dict[str, Way] = {}
    for record, labels in _chosen(evidence):
        if labels.size > 1 and np.unique(component[labels]).size == 1 and not evidence.solution.is_frozen(labels).any():
            found[record.module] = _other(record.blocks)
    return found


def concerned(evidence: Evidence, seen: Ints) -> dict[str, Way]:
    """Module -> the other way, for ops that read one of the labels `seen`, where nobody asked for the way taken."""
    component = evidence.solution.component
    atoms = np.unique(component[seen])
    return {
        record.module: _other(record.blocks)
        for record, labels in _chosen(evidence)
        if np.isin(component[labels], atoms).any()
    }


def _other(choice: str) -> Way:
    return "inside" if choice == "whole" else "whole"


def _chosen(evidence: Evidence) -> Iterator[tuple[OpRecord, Ints]]:
    """Ops whose channels lie in blocks, and the labels that they read there."""
    for log in evidence.logs:
        for record in log.records:
            if record.blocks and record.module not in evidence.blocks:
                yield record, np.concatenate([f.labels.ravel() for s in record.inputs for f in s.fields])
