"""`given_model`: whatever a MODEL string names, built or loaded, with inputs to run it on and how to build it again."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchbonsai.artifacts.folder import MANIFEST, PLAN, read_manifest
from torchbonsai.artifacts.inputs import as_inputs, random_example
from torchbonsai.artifacts.load import load
from torchbonsai.artifacts.recipe import from_json
from torchbonsai.core.errors import ConfigError, message
from torchbonsai.models.build import ModelConfig, build
from torchbonsai.models.sources import built_shape, default_shape, find_builder, library_of, parameters_of
from torchbonsai.models.zoo import ZOO
from torchbonsai.surgery.plan import PruningPlan
from torchbonsai.training.checkpoint import load_weights

Shape = tuple[int, ...]
_SILENT = "a factory without in_shape=(channels, height, width), or a network saved without inputs="


@dataclass(frozen=True, eq=False)
class GivenModel:
    """model: on the CPU, in eval mode. inputs: random example inputs for it. weights: where they come from, in words.

    build: makes the dense model. plan: what was cut already, of a saved folder's network.
    """

    name: str
    model: nn.Module
    inputs: Any
    weights: str
    build: ModelConfig
    plan: PruningPlan | None = None


def given_model(
    name: str,
    *,
    pretrained: bool = False,
    weights: str | Path | None = None,
    inputs: Sequence[str] = (),
    classes: int | None = None,
    seed: int = 0,
) -> GivenModel:
    """The model that `name` means: of our zoo, timm:NAME, torchvision:NAME, hf:ID, package.module:factory, or a folder.

    Weights are random (from `seed`) unless pretrained (what the library's authors trained) or weights (a checkpoint
    file, loaded strictly). inputs: a shape each, "1,3,224,224", batch first; needed where nobody knows the size.
    classes: of the head. Raises ConfigError, ArtifactError or DataError, each with its way out.
    """
    shapes = [parse_shape(text) for text in inputs]
    if pretrained and weights is not None:
        raise _wrong("weights come from one place", "--pretrained and --weights", "leave one of them out")
    if is_saved(name):
        if pretrained or weights is not None or classes is not None:
            got = "--pretrained, --weights or --classes"
            raise _wrong("a saved folder brings its own weights and classes", got, "leave them out")
        return _opened(name, shapes, seed)
    config = _config(name, shapes, classes, pretrained)
    model = _pretrained(name) if pretrained else build(config, seed=seed)
    if weights is not None:
        load_weights(model, weights)
    if not shapes:
        shapes = [(1, *_shape_of(config, model, name))]
        config = _with_shape(config, shapes)
    said = (
        "trained by the library's authors" if pretrained else f"from {weights}" if weights else f"random, seed {seed}"
    )
    return GivenModel(name, model.eval(), _random(shapes, seed), said, config)


def is_saved(name: str) -> bool:
    """Whether `name` means a folder that `save` wrote: a folder, and no name of the zoo."""
    return name not in ZOO and (Path(name).is_dir() or (Path(name) / MANIFEST).is_file())


def parse_shape(text: str) -> Shape:
    """ "1,3,224,224" as (1, 3, 224, 224). Raises ConfigError for anything else.

    >>> parse_shape("1,3,32,32")
    (1, 3, 32, 32)
    """
    try:
        shape = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1 or math.prod(shape) > 2**31:
        must, way_out = "an input is given by its shape, batch first", "write --input 1,3,224,224"
        raise _wrong(must, repr(text), way_out, "a typing error")
    return shape


def _opened(name: str, shapes: list[Shape], seed: int) -> GivenModel:
    model = load(name).eval()
    manifest = read_manifest(Path(name))
    config = from_json(manifest["build"])
    if shapes:
        example = _random(shapes, seed)
    elif manifest.get("inputs") is not None:
        example = as_inputs(random_example(manifest["inputs"], seed=seed))
    else:
        example = _random([(1, *_shape_of(config, model, name))], seed)
    cut = json.loads((Path(name) / PLAN).read_text()) if PLAN in manifest["files"] else None
    return GivenModel(name, model, example, f"of {name}", config, PruningPlan.from_json(cut) if cut else None)


def _config(name: str, shapes: list[Shape], classes: int | None, pretrained: bool) -> ModelConfig:
    """How the model is built; a shape that is known now decides in_shape."""
    found = library_of(name)
    if found is None:
        if pretrained:
            way_out = "give a checkpoint file with --weights"
            raise _wrong("only timm:, torchvision: and hf: models have trained weights to load", repr(name), way_out)
        if classes is not None and "classes" not in parameters_of(find_builder(name)):
            raise _wrong("--classes needs a factory with a parameter 'classes'", repr(name), "leave it out")
        config = ModelConfig(name, classes=10 if classes is None else classes)
        known = default_shape(name)
        return _with_shape(config, shapes or ([(1, *known)] if known else []))
    library, inner = found
    options: dict[str, Any] = library.structure(inner) if pretrained else {}
    if classes is not None:
        if pretrained or not library.classes_option:
            way_out = "build the network in a factory of your own, and give package.module:factory"
            raise _wrong("--classes needs a network whose head is built anew", repr(name), way_out)
        options[library.classes_option] = classes
    return _with_shape(ModelConfig(name, options=tuple(sorted(options.items()))), shapes)


def _with_shape(config: ModelConfig, shapes: list[Shape]) -> ModelConfig:
    """in_shape from the one input, where it is a batch of pictures."""
    if len(shapes) != 1 or len(shapes[0]) != 4:
        return config
    _, channels, height, width = shapes[0]
    return dataclasses.replace(config, in_shape=(channels, height, width))


def _pretrained(name: str) -> nn.Module:
    found = library_of(name)
    assert found is not None
    library, inner = found
    with torch.random.fork_rng(devices=[]):
        return library.pretrained(inner).to(device="cpu", dtype=torch.float32)


def _shape_of(config: ModelConfig, model: nn.Module, name: str) -> Shape:
    """The input's size, without the batch, where it was not given."""
    if default_shape(config.name) is not None:
        return config.in_shape
    shape = built_shape(config.name, model)
    if shape is None:
        must = f"the size of the inputs of {name!r} must be known"
        raise _wrong(must, "nothing that says it", "give it, batch first: --input 1,3,224,224", _SILENT)
    return shape


def _random(shapes: list[Shape], seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    made = tuple(torch.randn(shape, generator=generator) for shape in shapes)
    return made[0] if len(made) == 1 else made


def _wrong(must: str, got: str, way_out: str, cause: str = "a setting of another kind of model") -> ConfigError:
    return ConfigError(message(must, got, cause, way_out))
