"""`ignore=` and `only=`: freezing what the user names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from torch import nn

from torchbonsai.core.errors import ConfigError, message
from torchbonsai.graph.build import build
from torchbonsai.graph.channel_graph import Blocks, ChannelGraph, Ints, Way
from torchbonsai.graph.evidence import Evidence
from torchbonsai.graph.forward import unwrap
from torchbonsai.selection.widths import fits

Named = Iterable[Any] | str | None


Wanted = Way | Mapping[str, Way] | None


def resolved(model: nn.Module, blocks: Wanted) -> Blocks:
    """Module path -> what leaves where channels lie in blocks; a pattern means all below, and the last one wins.

    Raises ConfigError for a pattern that names no module, and for another word than "whole" or "inside".
    """
    wanted = blocks if isinstance(blocks, Mapping) else {} if blocks is None else {"*": blocks}
    paths = [p for p, _ in model.named_modules(remove_duplicate=False)]
    found: dict[str, Way] = {}
    for pattern, way in wanted.items():
        below = [p for p in paths if any(fits(above, pattern) for above in _and_above(p))]
        if way not in ("whole", "inside") or not below:
            raise ConfigError(
                message(
                    'blocks= must be "whole" or "inside", or a dict of these by module name or pattern.',
                    f"{pattern!r}: {way!r}",
                    "a typing error" if below else "no module has such a name",
                    f"near matches: {get_close_matches(pattern, paths, 3)}",
                )
            )
        found |= dict.fromkeys(below, way)
    return found


def _and_above(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[: k + 1]) for k in range(len(parts))]


def named(model: nn.Module, items: Named, option: str) -> tuple[str, ...]:
    """Names and patterns for what `items` holds, which go on meaning the same when a cut replaces parameters.

    A module or parameter is given its first name. Raises ConfigError for what names nothing in `model`.
    """
    return tuple(_name(model, item, option) for item in _listed(items))


def restrict(graph: ChannelGraph, model: nn.Module, ignore: Named = (), only: Named = None) -> ChannelGraph:
    """The graph with what `ignore` names frozen, and everything that no module in `only` makes.

    A module means what it makes (output channels; a norm's or a depthwise convolution's own), a parameter all its
    axes. Names may be glob patterns. Raises ConfigError for what names nothing.
    """
    frozen: list[tuple[Ints, str, None]] = []
    for name in named(model, ignore, "ignore"):
        frozen += [
            (graph.evidence.labels[n][a], f"ignored, because of {n} axis {a} (ignore={name!r})", None)
            for n, a in _axes(graph, model, name)
        ]
    if only is not None:
        allowed = {axis for name in named(model, only, "only") for axis in _axes(graph, model, name)}
        for g in graph.groups:
            made = {(b.name, b.axis) for b in g.bound("produces")} or {(b.name, b.axis) for b in g.bindings}
            if not made & allowed:
                frozen += [
                    (graph.evidence.labels[b.name][b.axis][b.index >= 0], "not made by a module that only= names", None)
                    for b in g.bindings
                ]
    if not frozen:
        return graph
    evidence: Evidence = graph.evidence
    return build(evidence.amended(frozen=frozen))


def _listed(items: Named) -> list[Any]:
    if items is None:
        return []
    one = isinstance(items, str | nn.Module | nn.Parameter) or not isinstance(items, Iterable)
    return [items] if one else list(items)


def _name(model: nn.Module, item: Any, option: str) -> str:
    item = unwrap(item) if isinstance(item, nn.Module) else item
    if isinstance(item, str):
        names = [item] if any(_fitting(model, item)) else []
    else:
        held = model.named_modules() if isinstance(item, nn.Module) else model.named_parameters()
        names = [name or "*" for name, thing in held if thing is item]
    if names:
        return names[0]
    known = [n for n, _ in model.named_modules()] + [n for n, _ in model.named_parameters()]
    near = get_close_matches(item, known, 3) if isinstance(item, str) else []
    raise ConfigError(
        message(
            f"{option}= must name modules or parameters of the model.",
            repr(item if isinstance(item, str) else type(item).__name__),
            "a typing error, or a module of another copy of the model (one with masks is copied: give names)",
            f"near matches: {near}" if near else "see model.named_modules()",
        )
    )


def _fitting(model: nn.Module, name: str) -> tuple[list[str], list[str]]:
    """The modules below the model, and the parameters, that a name or pattern fits."""
    paths = [p for p, _ in model.named_modules(remove_duplicate=False) if p and fits(p, name)]
    return paths, [n for n, _ in model.named_parameters(remove_duplicate=False) if fits(n, name)]


def _axes(graph: ChannelGraph, model: nn.Module, name: str) -> list[tuple[str, int]]:
    """The axes that a name or pattern means."""
    paths, names = _fitting(model, name)
    held = {graph.aliases.get(n, n) for n in names}
    axes = [(n, a) for n in sorted(held) for a in graph.evidence.labels.get(n, {})]
    for path in paths:
        axes += _made_by(graph, path)
    return list(dict.fromkeys(axes))


def _made_by(graph: ChannelGraph, path: str) -> list[tuple[str, int]]:
    """Output channels of a module: axes that it produces, or that go with a channel, but not those it contracts."""
    evidence: Evidence = graph.evidence
    return [
        (name, axis)
        for name, axes in evidence.labels.items()
        if name.startswith(f"{path}.")
        for axis in axes
        if "produces" in (roles := evidence.roles.get((name, axis), frozenset())) or not roles
    ]
