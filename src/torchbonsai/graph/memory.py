"""What rules answered, kept for the next pass: the train pass asks most of what the eval pass asked.

A rule's answer depends on the op, its arguments (of tensors: what they carry), and which of their axes vary; a layout
op's on the sizes, too. Shadows are told by identity, which an answer that is given again keeps, so that the ops that
follow are found, too.
"""

from __future__ import annotations

from typing import Any

import torch

from torchbonsai.graph.labels import Fields, Shadow
from torchbonsai.graph.record import OpRecord, Shape
from torchbonsai.graph.rules.registry import Known

_KINDS = frozenset({"contraction", "per_channel", "pointwise", "spatial", "normalising", "reduction", "layout"})
Key = tuple[Any, ...]


class Memory:
    """Shadows and answers of one label space. recalls: are answers given? Not within the pass that made them."""

    def __init__(self) -> None:
        self.recalls = False
        self._answers: dict[Key, OpRecord] = {}
        self._shadows: dict[Key, Shadow] = {}

    def __len__(self) -> int:
        """How many answers are kept."""
        return len(self._answers)

    def forget(self, kept: int) -> None:
        """All but the first answers: those of a pass that counts for nothing."""
        while len(self._answers) > kept:
            self._answers.popitem()

    def shadow(self, fields: Fields, dynamic: bool, leaf: str | None) -> Shadow:
        """The one shadow of that content."""
        key = (*[(f.axes, id(f.labels)) for f in fields], dynamic, leaf)
        known = self._shadows.get(key)
        if known is None:
            known = self._shadows[key] = Shadow(fields, dynamic, leaf)
        return known

    def key(self, known: Known, arguments: Key, tensors: list[torch.Tensor], labelled: bool) -> Key | None:
        """What the answer depends on; None where it may depend on values or on the place in the pass."""
        func = known.func
        if not labelled:
            return None if known.kind == "constant" else (func, arguments)
        moves = known.kind == "layout"
        if known.kind not in _KINDS or (moves and known.mutable):
            return None
        forms: list[Any] = []
        for t in tensors:
            if not t.is_floating_point():
                return None
            if type(t) is not torch.nn.Parameter:
                forms.append((t.shape, t.stride()) if moves else varies(t))
        return (func, arguments, *forms)

    def recall(self, key: Key | None, inputs: bool) -> OpRecord | None:
        """The record of the same question. inputs: has the op tensors to read?"""
        return self._answers.get(key) if key is not None and (self.recalls or not inputs) else None

    def keep(self, key: Key | None, record: OpRecord) -> None:
        """Keep what a rule wrote, unless it made labels of its own, which belong to one op alone."""
        if key is None or record.fresh or record.pointers or record.denied or record.pins or record.values is not None:
            return
        if not any(s.places for s in (*record.inputs, *record.made)):
            self._answers[key] = record


def varies(t: torch.Tensor) -> tuple[bool, ...]:
    """Along which axes do elements differ in more than their place?"""
    return tuple([n > 1 and step != 0 for n, step in zip(t.shape, t.stride(), strict=True)])


def repeated(known: OpRecord, shapes: tuple[Shape, ...], origins: tuple[tuple[int, ...], ...]) -> OpRecord:
    """The same op in another pass, on a picture of another size perhaps. MACs are those of the first pass."""
    k = known
    return OpRecord(
        k.func, k.name, k.kind, k.arguments, k.inputs, shapes, k.outputs, k.made, None, k.moves, False, k.variant,
        consumed=k.consumed, origins=origins, blocks=k.blocks, module=k.module, scale=k.scale,
    )  # fmt: skip
