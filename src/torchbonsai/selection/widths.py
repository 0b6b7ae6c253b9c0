"""Widths given by name: which group a name means."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TypeVar

from torchbonsai.core.errors import ConfigError, message
from torchbonsai.graph.channel_graph import ChannelGraph

Number = TypeVar("Number", int, float)


def widths_by_group(graph: ChannelGraph, widths: Mapping[str, int]) -> dict[str, int]:
    """{group name: width} for widths by group name or by any producing module.

    Raises ConfigError for an unknown or ambiguous name, two numbers for one group, or more channels than there are.
    """
    makers: dict[str, list[str]] = producing_modules(graph)
    found: dict[str, tuple[str, int]] = {}
    for name, width in widths.items():
        group = _group_of(graph, makers, name)
        if group in found:
            raise _error(
                f"a group has one width, and {found[group][0]!r} and {name!r} name the same group {group!r}",
                f"{found[group][1]} and {width}",
                "layers that a residual stream ties together",
                "give one of the two names",
            )
        size = graph.by_name[group].size
        if width > size:
            raise _error(
                f"group {group!r} has {size} channels; its width can be at most that",
                f"{name!r}: {width}",
                "widths of another network",
                "see graph.explain() for the sizes",
            )
        found[group] = (name, width)
    return {group: width for group, (_, width) in found.items()}


def by_group(graph: ChannelGraph, given: Mapping[str, Number] | Number, default: Number, what: str) -> list[Number]:
    """One number a group, in the graph's order: the number itself, or that of the first name or pattern that fits.

    given: {group, producing module, or glob pattern of either: number}. Raises ConfigError for a name that fits none.
    """
    if not isinstance(given, Mapping):
        return [given] * len(graph.groups)
    names = _names(graph)
    for pattern in given:
        if not _fit_any(names, pattern):
            known = dict.fromkeys(n for own in names.values() for n in own)
            near = get_close_matches(pattern, list(known), n=3, cutoff=0.4)
            raise _error(
                f"{what} must name groups or modules that make one",
                repr(pattern),
                "a typing error, names of another network, or a module whose channels are frozen",
                f"near matches: {near}" if near else "see graph.explain() for the names",
            )
    return [
        next((v for p, v in given.items() if any(fits(n, p) for n in names[g.name])), default) for g in graph.groups
    ]


def still_named(graph: ChannelGraph, given: Mapping[str, Number] | Number) -> Mapping[str, Number] | Number:
    """`given` without what fits no group of `graph`, which ties groups that were apart when they were named."""
    if not isinstance(given, Mapping):
        return given
    names = _names(graph)
    return {pattern: number for pattern, number in given.items() if _fit_any(names, pattern)}


def _names(graph: ChannelGraph) -> dict[str, list[str]]:
    """Group -> its name, and the modules that make it."""
    names: dict[str, list[str]] = {g.name: [g.name] for g in graph.groups}
    for module, groups in producing_modules(graph).items():
        for group in groups:
            names[group].append(module)
    return names


def _fit_any(names: Mapping[str, list[str]], pattern: str) -> bool:
    return any(fits(n, pattern) for own in names.values() for n in own)


def fits(name: str, pattern: str) -> bool:
    """A name fits itself, whatever brackets it has; a part of a weight is named weight[0:4]."""
    return name == pattern or fnmatchcase(name, pattern)


def producing_modules(graph: ChannelGraph) -> dict[str, list[str]]:
    """Module name -> the groups that its parameters produce, tied names included."""
    tied: dict[str, list[str]] = {}
    for name, first in graph.aliases.items():
        tied.setdefault(first, []).append(name)
    makers: dict[str, list[str]] = {}
    for group in graph.groups:
        for binding in group.bound("produces"):
            for name in {binding.name, graph.aliases.get(binding.name, binding.name), *tied.get(binding.name, ())}:
                groups = makers.setdefault(name.rpartition(".")[0], [])
                if group.name not in groups:
                    groups.append(group.name)
    return makers


def _group_of(graph: ChannelGraph, makers: Mapping[str, list[str]], name: str) -> str:
    if name in graph.by_name:
        return name
    groups = makers.get(name, [])
    if len(groups) == 1:
        return groups[0]
    if groups:
        raise _error(
            f"a width needs one group, and module {name!r} makes {len(groups)}",
            repr(name),
            "a fused layer, such as the query, key and value of attention",
            f"name a group: {', '.join(map(repr, groups))}",
        )
    held = [f"{f.reason} ({f.source})" if f.source else f.reason for f in graph.frozen if _touches(f.members, name)]
    if held:
        raise _error(
            f"{name!r} must name a group or a module that makes one",
            "a module whose channels are all frozen",
            "; ".join(dict.fromkeys(held)),
            "leave it out of widths",
        )
    near = get_close_matches(name, [*graph.by_name, *makers], n=3, cutoff=0.4)
    raise _error(
        f"{name!r} must name a group or a module that makes one",
        "a name that is neither",
        "a typing error, or names of another network",
        f"did you mean {' or '.join(map(repr, dict.fromkeys(near)))}?" if near else "see graph.explain() for the names",
    )


def _touches(members: tuple[str, ...], module: str) -> bool:
    """Whether a frozen slice ("name axis") belongs to `module` itself."""
    return any(member.split(" ")[0].rpartition(".")[0] == module for member in members)


def _error(must: str, got: str, cause: str, way_out: str) -> ConfigError:
    return ConfigError(message(must, got, cause, way_out))
