"""How the dense model is built: a name, a `ModelConfig`, or a callable that cannot be stored."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from torchbonsai.core.errors import ArtifactError, message
from torchbonsai.models.build import ModelConfig, build

Build = str | ModelConfig | Callable[[], nn.Module]


def known_build(model: nn.Module) -> ModelConfig | None:
    """The config of a model that was built by name, which `models.build` leaves on it and a copy keeps."""
    config = getattr(model, "bonsai_config", None)
    return config if isinstance(config, ModelConfig) else None


def to_json(made: Build) -> dict[str, Any] | None:
    """A name or config as JSON data; None for a callable, which only its owner can make again."""
    if isinstance(made, str):
        made = ModelConfig(name=made)
    return dataclasses.asdict(made) if isinstance(made, ModelConfig) else None


def from_json(data: Any) -> ModelConfig:
    """The config back. Raises ArtifactError for fields that this version does not know."""
    try:
        fields = {key: _tuples(value) for key, value in dict(data).items()}
        return ModelConfig(**fields)
    except (TypeError, ValueError) as error:
        raise ArtifactError(
            message(
                "the folder must say how its dense model is built",
                f"{data!r} ({error})",
                "a folder of another version",
                "pass build=, a callable that makes the dense model",
            )
        ) from error


def dense_model(made: Build) -> nn.Module:
    """The dense model; global random state is left as found. Raises ArtifactError where a callable raises."""
    if isinstance(made, str):
        made = ModelConfig(name=made)
    if isinstance(made, ModelConfig):
        return build(made, seed=0)
    try:
        with torch.random.fork_rng():
            model = made()
    except Exception as error:
        raise _broken(f"{type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise _broken(f"a {type(model).__name__}")
    return model


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _broken(got: str) -> ArtifactError:
    return ArtifactError(
        message("build must return the dense nn.Module", got, "a factory that raises", "call it by hand first")
    )
