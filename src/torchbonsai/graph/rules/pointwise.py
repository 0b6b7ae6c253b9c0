"""Pointwise ops: every operand's labels are unified along the channel axis and passed on."""

from __future__ import annotations

from torchbonsai.graph.call import Call
from torchbonsai.graph.labels import Field
from torchbonsai.graph.rules.registry import rule


@rule("pointwise", kind="pointwise")
def pointwise(call: Call) -> None:
    """out[i] depends on the operands' elements at i (after broadcasting) and on nothing else."""
    outs = call.outputs
    if not outs:
        return
    dims = outs[0].dim()
    operands = [(t, tuple(range(dims - t.dim(), dims))) for t in call.tensors if t.dim()]
    labelled = [(t, f) for t, _ in operands if (f := call.fields(t))]
    if len(labelled) == 1 == len(operands) and labelled[0][0].shape == outs[0].shape:
        fields = labelled[0][1]
    else:
        fields = tuple(Field(*f) for f in call.join(operands).fields)
    for out in outs:
        if out.shape == outs[0].shape:
            call.give(out, fields)
