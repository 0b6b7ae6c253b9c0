"""What a MODEL string means: a name of the zoo, `timm:NAME`, `torchvision:NAME`, `hf:ID`, `package.module:factory`.

A saved folder is a MODEL too; `artifacts.given` opens it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from torchbonsai.models.factory import find_factory
from torchbonsai.models.libraries import LIBRARIES, Library
from torchbonsai.models.zoo import IN_SHAPES, ZOO


def find_builder(name: str) -> Callable[..., Any]:
    """The callable that makes the model `name`, random weights. Raises ConfigError where there is none."""
    if name in ZOO:
        return ZOO[name]
    if (found := library_of(name)) is not None:
        library, inner = found
        return library.factory(inner)
    return find_factory(name, sorted(ZOO))


def library_of(name: str) -> tuple[Library, str] | None:
    """The library that `name` begins with, and the name within it; None for the zoo and the user's own factories.

    `torchvision:resnet18` is one; `torchvision.models:resnet18` is a factory.
    """
    prefix, colon, inner = name.partition(":")
    return (LIBRARIES[prefix], inner) if colon and prefix in LIBRARIES else None


def parameters_of(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a factory by name; none where it does not tell, as some classes written in C."""
    try:
        return dict(inspect.signature(factory).parameters)
    except ValueError:
        return {}


def default_shape(name: str) -> tuple[int, ...] | None:
    """(channels, height, width) that is known before the model is built: the zoo's, or a factory's own default.

    None where a factory has no `in_shape` with a default, and for libraries, which `built_shape` asks.
    """
    if name in ZOO:
        return IN_SHAPES.get(name, (3, 32, 32))
    if library_of(name) is not None:
        return None
    parameter = parameters_of(find_builder(name)).get("in_shape")
    default = parameter.default if parameter is not None else None
    return tuple(default) if isinstance(default, tuple | list) else None


def built_shape(name: str, model: nn.Module) -> tuple[int, ...] | None:
    """The input, without the batch, that a library says its network was made for; None where nobody says."""
    found = library_of(name)
    return None if found is None else found[0].input_shape(found[1], model)
