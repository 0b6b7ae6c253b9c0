"""`save`: a small network as a folder, complete and read back before it appears."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import nn

from torchbonsai.artifacts.folder import PLAN, WEIGHTS, new_folder, write_manifest
from torchbonsai.artifacts.inputs import describe
from torchbonsai.artifacts.load import load
from torchbonsai.artifacts.recipe import Build, known_build, to_json
from torchbonsai.artifacts.state import flags_of, stored
from torchbonsai.core.errors import ArtifactError, message
from torchbonsai.surgery.plan import PruningPlan


class Result(Protocol):
    """What `tb.prune` returns, as far as it is saved."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def plan(self) -> PruningPlan: ...


def save(
    result: Result | tuple[nn.Module, PruningPlan | None],
    folder: str | Path,
    build: Build | None = None,
    *,
    inputs: Any = None,
) -> Path:
    """Write the small network of `result`, or of (model, plan), to `folder`; returns it.

    plan: None for a network that was not cut. build: a MODEL string (a name of the zoo, "timm:NAME",
    "package.module:factory", …) or a `ModelConfig`, which are stored; or a callable that makes the dense model, which
    `load` will ask for again. It can be left out for a model that was built by name. inputs: example inputs, whose
    shapes and dtypes are stored, for `bonsai export`. The folder is read back and compared bit by bit before it takes
    its place; an older artifact there is replaced, and on an error nothing has changed.

    Raises ArtifactError where build is unknown, makes another model, or something else lies in the folder.
    """
    model, plan = result if isinstance(result, tuple) else (result.model, result.plan)
    made = build if build is not None else known_build(model)
    if made is None:
        raise ArtifactError(
            message(
                "a saved network needs to know how its dense model is built",
                f"a {type(model).__name__} that was not built by name",
                "a model made by a constructor of your own",
                'pass build="package.module:factory", or a callable that makes the dense model',
            )
        )
    with new_folder(Path(folder)) as temporary:
        save_file(stored(model), temporary / WEIGHTS)
        if plan is not None:
            (temporary / PLAN).write_text(json.dumps(plan.to_json(), allow_nan=False) + "\n")
        content = {
            "class": type(model).__qualname__,
            "build": to_json(made),
            "inputs": None if inputs is None else describe(inputs),
            "environment": environment(),
        }
        write_manifest(temporary, content | flags_of(model))
        _compare(model, load(temporary, made))
    return Path(folder)


def environment() -> dict[str, str]:
    """The versions that a saved network was made with."""
    versions = {name: metadata.version(name) for name in ("torchbonsai", "torch", "safetensors", "numpy")}
    return versions | {"python": platform.python_version(), "platform": platform.platform()}


def _compare(model: nn.Module, again: nn.Module) -> None:
    """Raises ArtifactError unless `again` has the class, tensors and flags of `model`, bit by bit."""
    differing: list[str] = []
    if type(again) is not type(model):
        differing.append(f"a {type(again).__name__}, not a {type(model).__name__}")
    before, after = stored(model), stored(again)
    differing += [name for name, tensor in before.items() if not _same(tensor, after[name])]
    differing += [key for key, value in flags_of(model).items() if value != flags_of(again)[key]]
    if differing:
        raise ArtifactError(
            message(
                "the network that is read back must be the one that is saved",
                f"differences in {', '.join(differing[:5])}",
                "build makes another model, or one that was changed after it was built",
                "pass build=, a callable that makes the dense model as it was before pruning",
            )
        )


def _same(one: torch.Tensor, two: torch.Tensor) -> bool:
    def raw(tensor: torch.Tensor) -> Any:
        return tensor.flatten().view(torch.uint8)

    return one.dtype == two.dtype and torch.equal(raw(one), raw(two))
