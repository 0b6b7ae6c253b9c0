"""`bonsai export`: a saved network as ONNX and .pt2, which need neither torchbonsai nor the network's class."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from torchbonsai.artifacts.export import TOLERANCE, export
from torchbonsai.artifacts.folder import read_manifest
from torchbonsai.artifacts.forms import Form
from torchbonsai.artifacts.given import given_model
from torchbonsai.core.errors import ConfigError, message

Folder = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]


@dataclass(frozen=True)
class Arguments:
    """Write a saved network as model.onnx and model.pt2, each checked against the module on random inputs."""

    folder: Folder
    """A folder that bonsai prune or tb.save wrote."""
    onnx: bool = False
    """For ONNX Runtime and the like."""
    pt2: bool = False
    """For torch.export.load."""
    input: tuple[str, ...] = ()
    """Shape of each input, batch first: 1,3,224,224. Needed where the folder does not say it."""
    out: str | None = None
    """Where to write. Default: into DIR."""
    json: bool = False
    """Print JSON."""


def run(arguments: Arguments) -> int:
    """Load, export, check, tell."""
    asked: dict[Form, bool] = {"onnx": arguments.onnx, "pt2": arguments.pt2}
    wanted = [form for form, yes in asked.items() if yes]
    if not wanted:
        must, way_out = "bonsai export must be told into which form", "give --onnx, --pt2, or both"
        raise ConfigError(message(must, "neither", "an option that was left out", way_out))
    read_manifest(Path(arguments.folder))  # a name of a model is refused: its weights would be random
    given = given_model(arguments.folder, inputs=arguments.input)
    written = export(given.model, given.inputs, arguments.out or arguments.folder, wanted)
    if arguments.json:
        rows = [{"path": str(e.path), "form": e.form, "max_rel_error": e.max_rel_error} for e in written]
        json.dump({"folder": arguments.folder, "tolerance": TOLERANCE, "files": rows}, sys.stdout, indent=1)
        print()
    else:
        print("\n".join(map(str, written)))
    return 0
