"""`load`: the small network back, from a folder that is whole and unchanged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from torchbonsai.artifacts.folder import PLAN, WEIGHTS, read_manifest
from torchbonsai.artifacts.recipe import Build, dense_model, from_json
from torchbonsai.artifacts.state import fill
from torchbonsai.core.errors import ArtifactError, PlanError, message
from torchbonsai.surgery.apply import apply
from torchbonsai.surgery.plan import PruningPlan


def load(folder: str | Path, build: Build | None = None) -> nn.Module:
    """The network that `save` wrote to `folder`, on the CPU, with its dtypes, layouts and flags: the same bits.

    The dense model is built (by `build`, else as the folder says; this imports and runs the factory it names), cut by
    the saved plan and filled with the saved tensors. Raises ArtifactError for files that are missing, truncated or
    altered, and for a dense model that is not the one that was pruned.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    made = build if build is not None else manifest["build"]
    if made is None:
        raise ArtifactError(
            message(
                f"loading a {manifest['class']} needs a callable that makes its dense model",
                "none; the network was saved with a callable, which cannot be stored",
                "a model made by a constructor of your own",
                "pass build= as when it was saved",
            )
        )
    model = dense_model(from_json(made) if isinstance(made, dict) else made)
    if PLAN in manifest["files"]:
        model = _cut(model, json.loads((folder / PLAN).read_text()))
    fill(model, _tensors(folder / WEIGHTS), manifest)
    return model


def _cut(model: nn.Module, plan: Any) -> nn.Module:
    try:
        return apply(PruningPlan.from_json(plan), model)
    except PlanError as error:
        raise ArtifactError(
            message(
                "the saved plan must fit the dense model",
                str(error),
                "build makes another model than the one that was pruned",
                "pass build=, a callable that makes the dense model as it was",
            )
        ) from error


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        reason: Any = error
        raise ArtifactError(
            message(f"{path.name} must be a safetensors file", str(reason), "a damaged file", "save the network again")
        ) from error
