"""What rules answered, kept for the next pass: the train pass asks most of what the eval pass asked.

A rule's answer depends on the op, its plain arguments, and of its tensors on the labels, shapes and strides. Labels are
told by identity, which an answer that is given again keeps, so that the ops that follow are found, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from torchbonsai.graph.labels import Fields, Shadow
from torchbonsai.graph.record import Consumption, Move, OpRecord

_KINDS = frozenset({"contraction", "per_channel", "pointwise", "spatial", "normalising", "reduction", "layout"})
Key = tuple[Any, ...]


@dataclass(eq=False, slots=True)
class Answer:
    """The fields of the outputs and what else the rule wrote into its record. inputs: kept alive, as labels of a key.

    agreed: the large network's answer that this one was compared with.
    """

    inputs: tuple[Shadow, ...]
    outputs: tuple[Fields, ...]
    moves: tuple[tuple[Move, ...], ...]
    variant: str
    consumed: list[Consumption]
    products: list[Any]
    blocks: tuple[str, str, float]
    agreed: Answer | None = None


Memory = dict[Key, Answer]


def key_of(
    func: Any, kind: str, args: Any, kwargs: Any, tensors: list[torch.Tensor], shadows: tuple[Shadow, ...], more: Any
) -> Key | None:
    """What the answer depends on; None where it may depend on values or on the place in the pass."""
    if kind not in _KINDS or (kind == "layout" and func._schema.is_mutable):
        return None
    seen = []
    for t, s in zip(tensors, shadows, strict=True):
        if not t.is_floating_point():
            return None
        seen.append((id(s.fields), s.dynamic, s.leaf, t.shape, t.stride()))
    return (func, more, tuple(seen), _plain(args), tuple(kwargs.items()) if kwargs else None)


def _plain(args: Any) -> Key:
    """The arguments that are not tensors, in place."""
    return tuple(
        [tuple(a) if type(a) is list and not (a and isinstance(a[0], torch.Tensor)) else _unless(a) for a in args]
    )


def _unless(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return None
    return len(value) if isinstance(value, list | tuple) else value


def remember(memory: Memory, key: Key, record: OpRecord) -> None:
    """Keep what a rule wrote, unless it made labels of its own, which belong to one op alone."""
    if not (record.fresh or record.pointers or record.denied):
        record.answer = memory[key] = Answer(
            record.inputs,
            record.outputs,
            record.moves,
            record.variant,
            record.consumed,
            record.products,
            (record.blocks, record.module, record.scale),
        )
