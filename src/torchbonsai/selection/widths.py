"""Widths given by name: which group a name means."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from torchbonsai.core.errors import ConfigError, message
from torchbonsai.graph.channel_graph import ChannelGraph


def widths_by_group(graph: ChannelGraph, widths: Mapping[str, int]) -> dict[str, int]:
    """{group name: width} for widths by group name or by any producing module.

    Raises ConfigError for an unknown or ambiguous name, two numbers for one group, or more channels than there are.
    """
    makers = producing_modules(graph)
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
