"""Stages that change the weights of a cut network and leave its shape: made anew, or rewound."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torchbonsai.core.errors import ConfigError, message
from torchbonsai.study.stage import Context, Inputs, Output, runs
from torchbonsai.study.stages.network import Network, left, taken
from torchbonsai.study.store import Done
from torchbonsai.surgery.plan import PruningPlan
from torchbonsai.training.policy import reinitialise, rewound


@dataclass(frozen=True)
class Reinitialise:
    """The parent "model" with new weights at its widths, drawn from `seed`. What its cut cost and proved goes along."""

    seed: int


@dataclass(frozen=True)
class Rewind:
    """The parent "model"'s cut, with the weights that the dense network had in the parent "early".

    What the cut cost and proved goes along.
    """


@runs(Reinitialise, "reinitialise", version=3)
def anew(config: Reinitialise, inputs: Inputs, context: Context) -> Output:
    """The factory at the new widths where it takes them, else every module's reset_parameters()."""
    network, module = taken(inputs["model"])
    how = reinitialise(module, network.model, list(network.widths.values()), config.seed)
    return left(replace(network, remade=how), module, **_of_cut(inputs["model"]))


def _of_cut(model: Done) -> dict[str, Any]:
    """What the cut that left `model` cost and proved, and which groups it went by."""
    return {
        k: model.result[k] for k in ("verification", "scoring_macs", "notes", "scored", "groups") if k in model.result
    }


@runs(Rewind, "rewind", version=3)
def rewind(config: Rewind, inputs: Inputs, context: Context) -> Output:
    """One plan against the dense network, applied to its earlier weights."""
    network = Network.of(inputs["model"])
    before, early = taken(inputs["early"])
    if network.plan is None or before.plan is not None or before.model != network.model:
        raise ConfigError(
            message(
                "rewinding needs a cut network, and the dense one that it was cut from at an earlier time",
                f"{'an uncut' if network.plan is None else 'a cut'} {network.model.name} and "
                f"{'an uncut' if before.plan is None else 'a cut'} {before.model.name}",
                "parents that were swapped",
                "give model= the cut one, early= the dense one",
            )
        )
    module = rewound(PruningPlan.from_json(network.plan), early)
    remade = "rewound to earlier weights of the dense network"
    return left(replace(network, remade=remade), module, **_of_cut(inputs["model"]))
