"""How narrow a group of a network may get that is cut in rounds: said of its dense width, however often it was cut."""

from __future__ import annotations

from torchbonsai.graph.channel_graph import ChannelGraph
from torchbonsai.pruning.rounds import floors, held, places_of
from torchbonsai.selection.budget import at_least
from torchbonsai.study.stages.network import Network

LEAST = 2
"""Of a share: a layer with one channel is a network collapsed, and 5 % of 16 channels are less than one."""


def floor_of(least: int | float, dense: int) -> int:
    """Channels that a group of `dense` keeps at least: the int itself; a share of them, rounded up, but `LEAST`.

    >>> floor_of(0.05, 128), floor_of(0.05, 16), floor_of(1, 128)
    (7, 2, 1)
    """
    return max(LEAST, at_least(least, dense)) if isinstance(least, float) else least


def floors_of(least: int | float, network: Network, graph: ChannelGraph) -> dict[str, int]:
    """{group of `graph`: channels that it keeps at least}, of the dense widths of `network`, which `graph` is of.

    Where `graph` ties what was apart in the dense network, no layer gets narrower than its own floor.
    """
    places = network.places or places_of(graph)
    counts = {name: min(floor_of(least, size), size) for name, size in network.dense_widths.items() if name in places}
    return floors(graph, held(places, network.cuts, graph), counts)
