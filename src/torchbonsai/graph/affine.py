"""What the parameters and buffers of a network do there: scale what a norm has normalised, be added, be a mean.

Read from the ops of the first eval pass of the trace, so it holds for any module that runs them.
"""

from __future__ import annotations

from dataclasses import dataclass

from torchbonsai.graph.channel_graph import ChannelGraph
from torchbonsai.graph.record import OpRecord
from torchbonsai.graph.rules.per_channel import BATCH_NORMS

_NORMS = ("aten::native_layer_norm", "aten::layer_norm", "aten::native_group_norm", "aten::group_norm")
_ADDS = ("aten::add", "aten::add_")
_BIASED = {"aten::addmm": 0, "aten::baddbmm": 0, "aten::convolution": 2, "aten::_convolution": 2, "aten::linear": 2}
"""Op -> which of its tensors is added."""


@dataclass(frozen=True)
class Affine:
    """Names of parameters and buffers.

    batch_scales: the scales of norms with a statistic a channel (batch norm, instance norm). scales: of all norms.
    added: biases of contractions, shifts of norms, parameters that a sum takes. means: running means.
    """

    batch_scales: tuple[str, ...]
    scales: tuple[str, ...]
    added: frozenset[str]
    means: frozenset[str]


def affine(graph: ChannelGraph) -> Affine:
    """What the trace of `graph` saw its parameters do."""
    batch: dict[str, None] = {}
    scales: dict[str, None] = {}
    added: set[str | None] = set()
    means: set[str | None] = set()
    for record in graph.evidence.logs[0].records:
        name, leaves = _op(record), [shadow.leaf for shadow in record.inputs]
        if name in BATCH_NORMS or name in _NORMS:
            if len(leaves) in (3, 5) and name in BATCH_NORMS:
                means.add(leaves[-2])
            if len(leaves) in (3, 5) and (name in _NORMS or len(leaves) == 5):
                added.add(leaves[2])
                scales[leaves[1] or ""] = None
                batch |= {leaves[1] or "": None} if name in BATCH_NORMS else {}
        elif name in _ADDS:
            added.update(leaves)
        elif _BIASED.get(name, len(leaves)) < len(leaves):
            added.add(leaves[_BIASED[name]])
    return Affine(_named(batch), _named(scales), frozenset(n for n in added if n), frozenset(n for n in means if n))


def _named(names: dict[str, None]) -> tuple[str, ...]:
    return tuple(n for n in names if n)


def _op(record: OpRecord) -> str:
    """ "aten.add.Tensor" -> "aten::add"."""
    return "::".join(record.name.split(".")[:2])
