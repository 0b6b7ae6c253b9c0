"""`bonsai explain`: groups, couplings, frozen channels with reasons and source lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import tyro

from torchbonsai.artifacts.given import GivenModel
from torchbonsai.cli.given import ModelArguments
from torchbonsai.core.units import MACS_CONVENTION, human
from torchbonsai.cost.macs import CostModel
from torchbonsai.graph.call import flat_tensors
from torchbonsai.graph.channel_graph import ChannelGraph, ChannelGroup
from torchbonsai.pruning.prune import trace


@dataclass(frozen=True)
class Arguments:
    """Tell which channels of a model can be removed, which go together, and which cannot and why."""

    given: Annotated[ModelArguments, tyro.conf.arg(name="")]
    prune_outputs: bool = False
    """As if the outputs may lose channels too."""
    blocks: Literal["whole", "inside"] | None = None
    """Of attention heads and other equal blocks: whole ones leave, or the same positions inside each."""
    json: bool = False
    """Print JSON."""


def run(arguments: Arguments) -> int:
    """Trace and print."""
    given = arguments.given.opened()
    graph = trace(given.model, given.inputs, prune_outputs=arguments.prune_outputs, blocks=arguments.blocks)
    if arguments.json:
        json.dump(as_json(given, graph), sys.stdout, indent=1)
        print()
    else:
        cost = CostModel(graph).dense
        print(f"{heading(given)}\n{human(cost.params)} parameters, {human(cost.macs)} MACs ({MACS_CONVENTION})\n")
        print(graph.explain())
    return 0


def heading(given: GivenModel) -> str:
    """Which model, on which inputs, with which weights."""
    return f"{given.name} on {' and '.join(shapes(given))}, weights {given.weights}"


def shapes(given: GivenModel) -> list[str]:
    """The inputs' shapes, "1x3x224x224"."""
    return ["x".join(map(str, tensor.shape)) for tensor in flat_tensors([given.inputs])]


def as_json(given: GivenModel, graph: ChannelGraph) -> dict[str, Any]:
    """What `graph.explain()` tells, as data."""
    cost = CostModel(graph).dense
    return {
        "model": given.name,
        "weights": given.weights,
        "inputs": shapes(given),
        "macs": cost.macs,
        "params": cost.params,
        "channels": graph.n_atoms,
        "groups": [_group(group) for group in graph.groups],
        "frozen": [{**asdict(f), "source": None if f.source is None else asdict(f.source)} for f in graph.frozen],
        "unreached": list(graph.unreached),
        "notes": list(graph.notes),
    }


def _group(group: ChannelGroup) -> dict[str, Any]:
    return {
        "name": group.name,
        "channels": group.size,
        **{role: _once([b.name, b.axis] for b in group.bound(role)) for role in ("produces", "consumes", "follows")},
        "inexact": [
            {"reason": i.reason, "source": None if i.source is None else asdict(i.source)} for i in group.inexact
        ],
    }


def _once(pairs: Iterable[list[Any]]) -> list[dict[str, Any]]:
    """Tensor names and axes, each once: a tensor may hold a channel at several places of one axis."""
    return [{"tensor": name, "axis": axis} for name, axis in dict.fromkeys(map(tuple, pairs))]
