"""Stages that give a network to start from: new weights, a checkpoint, a fresh head, a uniform width."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from torchbonsai.core.config import added_later
from torchbonsai.core.errors import BudgetError, ConfigError, DataError, message
from torchbonsai.criteria.random import Random
from torchbonsai.models.build import ModelConfig, build, takes_width
from torchbonsai.models.sources import Library, library_of
from torchbonsai.pruning.prune import prune
from torchbonsai.selection.budget import Budget
from torchbonsai.study.stage import Context, Inputs, Output, runs
from torchbonsai.study.stages.images import Images, example, opened
from torchbonsai.study.stages.network import Network, left, taken, whole, with_classes
from torchbonsai.training.head import fresh_head
from torchbonsai.training.policy import reset_parameters
from torchbonsai.training.start import checkpointed

GRID = 1024
"""Width multiples are tried in steps of 1 / GRID."""


@dataclass(frozen=True)
class NewWeights:
    """A network with random weights. code: a digest of the file of a factory that is not ours."""

    model: ModelConfig
    data: Images
    seed: int
    code: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """A network with the weights of a file, known by its digest; a fresh head where it has other classes."""

    model: ModelConfig
    data: Images
    seed: int
    digest: str
    code: str = ""


@dataclass(frozen=True)
class LibraryWeights:
    """A network of a library (timm:, torchvision:, hf:) with the weights that its authors trained, and a fresh head."""

    model: ModelConfig
    data: Images
    seed: int


@dataclass(frozen=True)
class FreshHead:
    """The parent "model" with a new last layer: what was trained on a source data set comes to the target."""

    data: Images
    classes: int
    seed: int


@dataclass(frozen=True)
class Uniform:
    """New weights at one width for all layers: the most of what `of` says that is not above `share` of the dense
    network's."""

    model: ModelConfig
    data: Images
    share: float
    seed: int
    code: str = ""
    of: Literal["macs", "params"] = added_later("macs")


@runs(NewWeights, "new-weights", version=1)
def new_weights(config: NewWeights, inputs: Inputs, context: Context) -> Output:
    """`models.build.build` from the seed."""
    module = build(config.model, seed=config.seed)
    image = example(opened(config.data, context.places))
    return left(whole(config.model, module, image), module)


@runs(Checkpoint, "checkpoint", version=1)
def checkpoint(config: Checkpoint, inputs: Inputs, context: Context) -> Output:
    """`training.start.checkpointed`, after a look at whether the file is still the one that was meant."""
    path = Path(context.places[config.digest])
    if file_digest(path) != config.digest:
        raise DataError(
            message("the checkpoint must not change during a study", str(path), "it was written anew", "start afresh")
        )
    module = checkpointed(config.model, path, seed=config.seed)
    image = example(opened(config.data, context.places))
    network = with_classes(whole(config.model, module, image), module, config.model.classes)
    return left(network, module)


@runs(LibraryWeights, "library-weights", version=1)
def library_weights(config: LibraryWeights, inputs: Inputs, context: Context) -> Output:
    """Downloaded, unless the library has them already. Raises ConfigError for a model that is of no library."""
    library, name = library_with(config.model.name)
    module = library.pretrained(name)
    image = example(opened(config.data, context.places))
    fresh_head(module, config.model.classes, config.seed, image)
    return left(whole(config.model, module, image), module)


def library_with(model: str) -> tuple[Library, str]:
    """The library whose authors trained `model`, and its name there. Raises ConfigError for a model of no library."""
    found = library_of(model)
    if found is None:
        raise ConfigError(
            message(
                "weights of a library belong to a model of a library",
                model,
                "a model of the zoo, or a factory",
                "name a data set or a checkpoint as the source, or a timm:, torchvision: or hf: model",
            )
        )
    return found


@runs(FreshHead, "fresh-head", version=1)
def fresh(config: FreshHead, inputs: Inputs, context: Context) -> Output:
    """A new last layer, of PyTorch's default initialisation."""
    network, module = taken(inputs["model"])
    image = example(opened(config.data, context.places))
    fresh_head(module, config.classes, config.seed, image)
    return left(_recounted(with_classes(network, module, config.classes), module, image), module)


@runs(Uniform, "uniform", version=2)
def uniform(config: Uniform, inputs: Inputs, context: Context) -> Output:
    """The factory at a smaller width where it takes one, else a uniform cut whose modules are reset."""
    dense = Network.of(inputs["dense"])
    image = example(opened(config.data, context.places))
    if takes_width(config.model.name):
        small, module = _narrowed(config, image, int(config.share * getattr(dense, config.of)))
        small = replace(small, remade=f"factory at width {small.model.width:g}")
    else:
        small, module = _cut_and_reset(config, image)
    small = replace(small, dense_macs=dense.macs, dense_params=dense.params, dense_widths=dense.dense_widths)
    return left(small, module)


def _narrowed(config: Uniform, image: torch.Tensor, ceiling: int) -> tuple[Network, nn.Module]:
    """Bisection on the width multiple."""
    low, high = 0, GRID
    best: tuple[Network, nn.Module] | None = None
    while low < high:
        middle = (low + high + 1) // 2
        model = replace(config.model, width=config.model.width * middle / GRID)
        module = build(model, seed=config.seed)
        network = whole(model, module, image)
        if getattr(network, config.of) <= ceiling:
            low, best = middle, (network, module)
        else:
            high = middle - 1
    if best is None:
        raise BudgetError(
            message(
                f"the uniform control must fit {ceiling} {config.of}",
                f"{config.model.name} has more at every width",
                "a model with a floor under its widths",
                "ask for a larger budget",
            )
        )
    return best


def _cut_and_reset(config: Uniform, image: torch.Tensor) -> tuple[Network, nn.Module]:
    """One share of every group, whichever channels: their weights are thrown away."""
    module = build(config.model, seed=config.seed)
    network = whole(config.model, module, image)
    budget = Budget(**{config.of: config.share})  # type: ignore[arg-type]
    result = prune(module, image, budget=budget, criterion=Random(seed=config.seed), scope="uniform")
    reset_parameters(result.model, config.seed)
    cut = Network.cut(network, result)
    return replace(cut, remade="reset_parameters() of every module"), result.model


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, shortened."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


def _recounted(network: Network, module: nn.Module, image: torch.Tensor) -> Network:
    counted = whole(network.model, module, image)
    return replace(counted, head=network.head)
