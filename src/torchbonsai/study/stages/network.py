"""A network as a stage's output: how to build it as plain data, its weights as tensors, its cost and widths."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import cattrs
import torch
from torch import Tensor, nn

from torchbonsai.core.errors import PruningError, message
from torchbonsai.cost.macs import CostModel
from torchbonsai.models.build import ModelConfig, build, of_classes
from torchbonsai.pruning.prune import PruneResult, trace
from torchbonsai.pruning.rounds import Places, places_of, widths_of
from torchbonsai.study.stage import Output
from torchbonsai.study.store import Done
from torchbonsai.surgery.apply import apply
from torchbonsai.surgery.plan import PruningPlan, compose
from torchbonsai.training.head import fresh_head

_CONVERTER = cattrs.Converter(forbid_extra_keys=True)


@dataclass(frozen=True, eq=False)
class Network:
    """How to build a network: a model of the zoo or of the user, a fresh head, a cut; all of them plain data.

    macs: of one image. widths: group of the dense network -> channels. places: where those lie in the dense network
    that `plan` cuts, empty of an uncut one of an older study. remade: how a network with new weights at other widths
    got them ("" where that was not asked).
    """

    model: ModelConfig
    macs: int
    params: int
    dense_macs: int
    dense_params: int
    widths: dict[str, int]
    dense_widths: dict[str, int]
    head: int | None = None
    plan: dict[str, Any] | None = None
    remade: str = ""
    places: Places = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return _CONVERTER.unstructure(self)

    @classmethod
    def of(cls, done: Done) -> Network:
        """The network that a stage left."""
        data = done.result["network"]
        # Older studies know the first position of every channel.
        places = {
            name: (parameter, axis, [[c] if isinstance(c, int) else c for c in channels])
            for name, (parameter, axis, channels) in data.get("places", {}).items()
        }
        return _CONVERTER.structure({**data, "places": places}, cls)

    @classmethod
    def cut(cls, network: Network, result: PruneResult) -> Network:
        """What `tb.prune` made of `network`; where that was cut before, one plan against the dense one."""
        before, after = result.cost.before, result.cost.after
        cuts, first = network.cuts, network.plan is None
        plan = result.plan if cuts is None else compose(cuts, result.plan)
        places = network.places or places_of(result.graph)
        return replace(
            network,
            macs=after.macs,
            params=after.params,
            dense_macs=before.macs if first else network.dense_macs,
            dense_params=before.params if first else network.dense_params,
            widths=widths_of(places, plan),
            plan=plan.to_json(),
            remade="",
            places=places,
        )

    @property
    def cuts(self) -> PruningPlan | None:
        """One plan of all cuts, against the dense network; None of an uncut one."""
        return None if self.plan is None else PruningPlan.from_json(self.plan)

    def module(self) -> nn.Module:
        """The dense module, before any cut, with weights that are to be overwritten."""
        module = build(self.model, seed=0)
        if self.head is not None:
            fresh_head(module, self.head, 0, torch.zeros(1, *self.model.in_shape))
        return module

    def small(self) -> nn.Module:
        """The module after its cut, if it has one."""
        module, cuts = self.module(), self.cuts
        return module if cuts is None else apply(cuts, module)


def whole(model: ModelConfig, module: nn.Module, image: Tensor) -> Network:
    """The description of an uncut module. image: (1, c, h, w), what the MACs are counted on."""
    graph = trace(module, image)
    cost = CostModel(graph).dense
    widths = {group.name: group.size for group in graph.groups}
    return Network(model, cost.macs, cost.params, cost.macs, cost.params, widths, widths, places=places_of(graph))


def left(network: Network, module: nn.Module, **result: Any) -> Output:
    """The output of a stage that leaves a network."""
    return Output({"network": network.to_json(), **result}, module.state_dict())


def taken(done: Done) -> tuple[Network, nn.Module]:
    """The network that a stage left, built, with its weights, on the CPU."""
    network = Network.of(done)
    module = network.small()
    try:
        module.load_state_dict(done.tensors(), strict=True)
    except RuntimeError as error:
        raise PruningError(
            message(
                "a network that a stage left must be built again with the same tensors",
                str(error).splitlines()[0],
                "the code of the model's factory changed since",
                "start a fresh output folder",
            )
        ) from error
    return network, module


def with_classes(network: Network, module: nn.Module, classes: int) -> Network:
    """`network` after `module` got a fresh head: as a model of so many classes where the factory can build that."""
    plain = of_classes(network.model, classes)
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    if {name: tensor.shape for name, tensor in build(plain, seed=0).state_dict().items()} == shapes:
        return replace(network, model=plain, head=None)
    return replace(network, head=classes)
