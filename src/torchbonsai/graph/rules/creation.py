"""Tensors made in the forward. A constant fill may shrink with its user, so it gets labels of its own."""

from __future__ import annotations

from torchbonsai.graph.call import Call
from torchbonsai.graph.labels import Field
from torchbonsai.graph.rules.registry import rule

_FILLS = "zeros ones full empty new_zeros new_ones new_full new_empty zeros_like ones_like full_like empty_like \
empty_strided new_empty_strided empty_permuted"


@rule(*(f"aten::{n}" for n in _FILLS.split()), kind="creation")
def fill(call: Call) -> None:
    """The same value everywhere: any positions may go, if the code asks for a smaller tensor by itself.

    What is made like another tensor shrinks with it.
    """
    out = call.outputs[0]
    like = call.fields(call.tensors[0]) if "_like" in call.name else ()
    covered = {a for f in like for a in f.axes}
    known = call.tracer.expected_axes(0)
    wide = [(a,) for a, n in enumerate(out.shape) if n > 1] if known is None else known
    axes = [a for one in wide if not covered & set(one) for a in one]
    call.give(out, (*like, *(Field((a,), call.fresh(out.shape[a])) for a in axes)))


_VALUES = "arange linspace logspace eye randn rand randint normal randperm scalar_tensor range tril_indices \
triu_indices hann_window rand_like randn_like randint_like bernoulli"


@rule(*(f"aten::{n}" for n in _VALUES.split()), kind="constant")
def values(call: Call) -> None:
    """Values that differ from place to place: no position may go."""
    for tensor in call.tensors:
        call.freeze(tensor, f"{call.name} makes values that depend on the position")


@rule("aten::set_", kind="creation")
def emptied(call: Call) -> None:
    """x.set_() gives a tensor's memory back (reversible networks do): nothing is left of it. Other forms are denied."""
    if len(call.tensors) > 1 or call.out.numel():
        call.deny(f"{call.name} puts a tensor on other memory")
