"""Ops that treat every channel alone, with parameters and statistics of their own a channel."""

from __future__ import annotations

from torchbonsai.graph.call import Call
from torchbonsai.graph.rules.registry import rule

BATCH_NORMS = (
    "aten::native_batch_norm",
    "aten::batch_norm",
    "aten::_native_batch_norm_legit",
    "aten::_native_batch_norm_legit_functional",
    "aten::_native_batch_norm_legit_no_training",
    "aten::_batch_norm_with_update",
    "aten::_batch_norm_with_update_functional",
    "aten::_batch_norm_no_update",
    "aten::cudnn_batch_norm",
    "aten::miopen_batch_norm",
)


@rule(*BATCH_NORMS, kind="per_channel")
def batch_norm(call: Call) -> None:
    """x (n, c, …); weight, bias, running and saved statistics (c,)."""
    x = call.tensors[0]
    letters = tuple(range(x.dim()))
    vectors = [(t, (1,)) for t in call.tensors[1:] if t.dim() == 1 and t.numel() == x.shape[1]]
    fields = call.join([(x, letters), *vectors]).fields
    if not call.tracer.log.training and _takes_statistics(call):
        for f in fields:
            if f.axes != (1,):
                call.inexact(f.labels, f"{call.name} takes its statistics over channels")
    channel = tuple(f._replace(axes=(0,)) for f in fields if f.axes == (1,))
    for out in call.outputs:
        if out.shape == x.shape:
            call.give(out, fields)
        elif out.shape == x.shape[1:2]:
            call.give(out, channel)


def _takes_statistics(call: Call) -> bool:
    """Of its input, that is, rather than the running ones (instance norm in eval mode, say)."""
    if "no_training" in call.name or "no_update" in call.name:
        return False
    return "with_update" in call.name or bool(call.args[3 if "no_stats" in call.name else 5])


@rule("aten::prelu", "aten::_prelu_kernel", kind="per_channel")
def prelu(call: Call) -> None:
    """x (n, c, …), weight (c,) or (1,), or already spread to x's rank."""
    x, weight = call.tensors[:2]
    axis = 1 if x.dim() > 1 else 0
    letters = (axis,) if weight.dim() == 1 else tuple(range(x.dim() - weight.dim(), x.dim()))
    operands = [(x, tuple(range(x.dim())))]
    if weight.dim() and weight.numel() > 1:
        operands.append((weight, letters))
    else:
        call.freeze(weight, "one slope for all channels")
    call.give(call.out, call.join(operands).fields)


@rule("aten::sym_size", "aten::_local_scalar_dense", "aten::is_same_size", "aten::equal", kind="inert")
def inert(call: Call) -> None:
    """Reads a size or a single number; nothing with a channel axis comes out."""
    for tensor in call.tensors:
        call.freeze(tensor, f"{call.name} turns it into a Python number")
