"""The channel graph in words."""

from __future__ import annotations

from torchbonsai.graph.channel_graph import ChannelGraph, ChannelGroup, Frozen


def explain(graph: ChannelGraph) -> str:
    """Groups with sizes and what leaves with them, then what is frozen, by which op at which line."""
    total = graph.n_atoms
    lines = [f"{len(graph.groups)} groups, {total} channels can be removed"]
    lines += [_group(g) for g in graph.groups]
    if graph.frozen:
        lines.append(f"frozen: {sum(f.size for f in graph.frozen)} channels")
        lines += [_frozen(f) for f in graph.frozen]
    narrow = [str(k) for k, output in enumerate(graph.outputs) if output]
    if narrow:
        lines.append("outputs that lose channels: number " + ", ".join(narrow))
    if graph.unreached:
        lines.append("no pass reached these parameters, they are kept whole: " + ", ".join(graph.unreached))
    lines += [f"note: {n}" for n in graph.notes]
    return "\n".join(lines)


def _group(group: ChannelGroup) -> str:
    parts = [f"  {group.name}: {group.size} channels"]
    makers = list(dict.fromkeys(b.name.rpartition(".")[0] or b.name for b in group.bound("produces")))
    if len(makers) > 1:
        parts.append("tied to " + ", ".join(makers[1:]))
    readers = list(dict.fromkeys(b.name.rpartition(".")[0] or b.name for b in group.bound("consumes")))
    if readers:
        parts.append("read by " + ", ".join(readers))
    for why in group.inexact:
        parts.append(f"inexact: {why.reason}" + (f" ({why.source})" if why.source else ""))
    return "; ".join(parts)


def _frozen(frozen: Frozen) -> str:
    where = f" ({frozen.source})" if frozen.source else ""
    return f"  {frozen.name}: {frozen.size} channels: {frozen.reason}{where}"
