"""Rules for the user's own ops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torchbonsai.core.errors import ConfigError, message
from torchbonsai.graph.call import Rule
from torchbonsai.graph.rules.registry import rule as register


def rule(op: Any) -> Callable[[Rule], Rule]:
    """Decorator: how channel labels pass through an op of one's own.

    op: "namespace::name", or the op object `torch.ops.namespace.name`. The function gets a `Call`: it reads
    `call.tensors` and their `call.fields(t)`, and says what the outputs carry with `call.give(out, fields)`; it may
    `call.unify` labels, `call.freeze` them with a reason, or mark them `call.inexact`. An output that is given nothing
    carries no labels. Check it with `tb.testing.check_rule`. Raises ConfigError for what is not an op.
    """
    if isinstance(op, str):
        name = op.split(".")[0]
    elif hasattr(op, "name") and callable(op.name):
        name = op.name().split(".")[0]
    elif hasattr(op, "overloads"):
        name = getattr(op, op.overloads()[0]).name().split(".")[0]
    else:
        name = ""
    if "::" not in name:
        raise ConfigError(
            message(
                "tb.rule needs an op.",
                repr(op),
                "a Python function was given; the tracer sees dispatcher ops only",
                'register the function with torch.library and pass its name, "namespace::name"',
            )
        )
    return register(name, kind="user")
