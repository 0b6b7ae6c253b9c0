"""Recurrent layers in one op: their channels are frozen, their MACs are counted."""

from __future__ import annotations

from torchbonsai.graph.call import Call
from torchbonsai.graph.rules.registry import rule


@rule("aten::mkldnn_rnn_layer", "aten::lstm", "aten::gru", "aten::rnn_tanh", "aten::rnn_relu", "aten::_cudnn_rnn",
      "aten::miopen_rnn", kind="recurrent")  # fmt: skip
def recurrent(call: Call) -> None:
    """Every weight matrix is applied once per step and sample."""
    call.deny(f"{call.name} mixes the channels of its gates inside one op")
    x = call.tensors[0]
    steps = x.shape[0] * (x.shape[1] if x.dim() == 3 else 1)
    for w in call.tensors[1:]:
        if w.dim() == 2 and call.shadow(w).leaf is not None:
            call.add_product(steps * w.numel(), (), w)
