"""Fused attention: two products of activations and a softmax between them."""

from __future__ import annotations

import numpy as np
import torch

from torchbonsai.graph.call import Call
from torchbonsai.graph.labels import Field
from torchbonsai.graph.rules.registry import rule

_FUSED = """_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention
_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention _scaled_dot_product_attention_math
scaled_dot_product_attention _scaled_dot_product_fused_attention_overrideable"""


@rule(*(f"aten::{n}" for n in _FUSED.split()), kind="contraction")
def attention(call: Call) -> None:
    """q, k (…, n, d), v (…, m, e) -> (…, n, e): softmax(q k' * scale) v, a head at a time."""
    q, k, v = call.tensors[:3]
    for extra in call.tensors[3:]:
        call.freeze(extra, "an attention mask or bias")
    lead = tuple(range(q.dim() - 2))
    d = q.dim() - 1
    scores = call.join([(q, (*lead, d - 1, -1)), (k, (*lead, -2, -1))], frozenset((-1,)))
    given = call.kwargs.get("scale")
    call.record.scale = float(given if given is not None else q.shape[-1] ** -0.5)
    for f in scores.fields:
        if min(f.axes) < 0 or max(f.axes) >= d - 1:
            call.freeze(f.labels, "attention normalises over the axis")
    heads = tuple(f for f in scores.fields if min(f.axes) >= 0 and max(f.axes) < d - 1)
    fields = []
    for axes, labels in call.fields(v):
        if max(axes) == d - 1:
            call.freeze(labels, "attention sums over the axis")
        elif set(axes) & set(lead):
            fields.append(_meet_heads(call, heads, Field(axes, labels)))
        else:
            fields.append(Field(axes, labels))
    covered = {a for f in fields for a in f.axes}
    for h in heads:
        if not set(h.axes) & covered:
            call.freeze(h.labels, "attention weighs values that vary over heads without labels")
    call.give(call.outputs[0], tuple(fields))
    for out in call.outputs[1:]:  # the logarithms of the softmax's sums, (…, n)
        if out.dim() == q.dim() - 1 and out.shape[:-1] == q.shape[:-2]:
            call.give(out, heads)
    _count(call, q, k, v, scores.extents)


def _meet_heads(call: Call, heads: tuple[Field, ...], value: Field) -> Field:
    """Heads of queries and keys, and heads of values, are the same heads."""
    for h in heads:
        if set(h.axes) & set(value.axes):
            shape = [value.labels.shape[k] if a in h.axes else 1 for k, a in enumerate(value.axes)]
            call.unify(value.labels, np.broadcast_to(h.labels.reshape(shape), value.labels.shape))
    return value


def _count(call: Call, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extents: tuple) -> None:
    """MACs of both products; heads and widths inside heads are counted as they are kept."""
    lead, pairs = int(np.prod(q.shape[:-2])), q.shape[-2] * k.shape[-2]
    of_values = [f.labels for f in call.fields(v) if max(f.axes) != v.dim() - 2]
    for width, arrays in ((q.shape[-1], [a for _, a in extents]), (v.shape[-1], of_values)):
        labelled = int(np.prod([a.size for a in arrays])) if arrays else 1
        call.add_product(pairs * lead * width // labelled, tuple(arrays), None)
