"""Which rule an op has: by name, by PyTorch's own pointwise tag, by the explicit list, else none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from torchbonsai.graph.call import Call, Rule

RULES: dict[str, tuple[str, Rule]] = {}
_cache: dict[Any, Known] = {}

UNTAGGED_POINTWISE = frozenset(
    "aten::" + name
    for name in """hardswish hardswish_ mish mish_ log_sigmoid_forward native_dropout _to_copy copy_ detach alias clone
    contiguous lift lift_fresh lift_fresh_copy dropout bernoulli_ fill fill_ zero zero_ hardtanh hardtanh_ relu6 celu
    celu_ _conj_physical _prelu_kernel rrelu_with_noise rrelu_with_noise_ masked_fill masked_fill_ where
    """.split()
)
"""Pointwise by their definition, yet without PyTorch's tag on some supported version; every name has a test."""


def rule(*names: str, kind: str) -> Callable[[Rule], Rule]:
    """Register a rule for ops by their qualified names, e.g. "aten::convolution"; overloads share one rule."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = (kind, function)
        _cache.clear()
        return function

    return register


class Known(NamedTuple):
    """What there is to know of an op. rule: None where nothing is known. mutable: it writes into an argument.

    arbitrary: it leaves memory as it is, or draws numbers, so that its values say nothing of widths. written: position
    and name of the arguments that it writes into.
    """

    func: Any
    name: str
    kind: str
    rule: Rule | None
    mutable: bool
    arbitrary: bool
    written: tuple[tuple[int, str], ...]


def lookup(func: Any) -> tuple[str, Rule | None]:
    """(kind, rule) of an op; ("unknown", None) where there is no rule."""
    found = known(func)
    return found.kind, found.rule


def known(func: Any) -> Known:
    """What there is to know of an op."""
    found = _cache.get(func)
    if found is None:
        arbitrary = torch.Tag.nondeterministic_seeded in func.tags or "empty" in func.name()
        written = tuple(
            (i, a.name)
            for i, a in enumerate(func._schema.arguments)
            if a.alias_info is not None and a.alias_info.is_write
        )
        found = _cache[func] = Known(func, str(func), *_find(func), func._schema.is_mutable, arbitrary, written)
    return found


def _find(func: Any) -> tuple[str, Rule | None]:
    name = func.name().split(".")[0]
    plain = name.removesuffix("_") if func._schema.is_mutable and not name.endswith("__") else name
    if name in RULES:
        return RULES[name]
    if torch.Tag.pointwise in func.tags or name in UNTAGGED_POINTWISE:
        return RULES["pointwise"]
    return RULES.get(plain, ("unknown", None))


def pass_on(call: Call) -> None:
    """Every output of the input's shape carries the input's labels unchanged."""
    for out in call.outputs:
        call.give(out, call.fields(call.tensors[0]))
