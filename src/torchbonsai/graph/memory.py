"""What rules answered, kept for the next pass: the train pass asks most of what the eval pass asked.

A rule's answer depends on the op, its arguments (of tensors: what they carry), and which of their axes vary; a layout
op's on the sizes, too. Shadows are told by identity, which an answer that is given again keeps, so that the ops that
follow are found, too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from torchbonsai.graph.labels import Fields, Ints, Shadow
from torchbonsai.graph.record import OpRecord, Shape

_KINDS = frozenset({"contraction", "per_channel", "pointwise", "spatial", "normalising", "reduction", "layout"})
Key = tuple[Any, ...]


class Memory:
    """Shadows and answers of one label space. recalls: are answers given? Not within the pass that made them."""

    def __init__(self) -> None:
        self.recalls = False
        self._answers: dict[Key, OpRecord] = {}
        self._shadows: dict[Key, Shadow] = {}

    def forget(self) -> None:
        """Answers of a pass that counts for nothing."""
        self._answers.clear()

    def shadow(self, fields: Fields, dynamic: bool, leaf: str | None, origins: tuple[int, ...]) -> Shadow:
        """The one shadow of that content."""
        key = (*[(f.axes, id(f.labels)) for f in fields], dynamic, leaf, origins)
        known = self._shadows.get(key)
        if known is None:
            known = self._shadows[key] = Shadow(fields, dynamic, leaf, origins)
        return known

    def key(self, record: OpRecord, tensors: list[torch.Tensor], mutable: bool) -> Key | None:
        """What the answer depends on; None where it may depend on values or on the place in the pass."""
        if record.kind not in _KINDS:
            return None
        moves = record.kind == "layout"
        if moves and mutable:
            return None
        forms: list[Any] = []
        for t in tensors:
            if not t.is_floating_point():
                return None
            forms.append((t.shape, t.stride()) if moves else varies(t))
        return (record.func, record.arguments, *forms)

    def recall(self, key: Key | None) -> OpRecord | None:
        """The record of the same question."""
        return self._answers.get(key) if key is not None and self.recalls else None

    def keep(self, key: Key | None, record: OpRecord) -> None:
        """Keep what a rule wrote, unless it made labels of its own, which belong to one op alone."""
        if key is None or record.fresh or record.pointers or record.denied or record.pins:
            return
        if not any(s.places for s in (*record.inputs, *record.made)):
            self._answers[key] = record


def varies(t: torch.Tensor) -> tuple[bool, ...]:
    """Along which axes do elements differ in more than their place?"""
    return tuple([n > 1 and step != 0 for n, step in zip(t.shape, t.stride(), strict=True)])


def resized(record: OpRecord, shapes: tuple[Shape, ...]) -> OpRecord:
    """The same op on a picture of another size. MACs are those of the first pass."""
    return record if record.shapes == shapes else replace(record, shapes=shapes, products=[])
