"""Building a model from plain data: a MODEL string (see `models.sources`), widths, options, a seed."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from torchbonsai.core.errors import ConfigError, PruningError, message
from torchbonsai.models.sources import find_builder, library_of, parameters_of
from torchbonsai.models.zoo import ZOO


@dataclass(frozen=True)
class ModelConfig:
    """What decides a model but its seed.

    name: of the zoo (`names()`), "timm:NAME", "torchvision:NAME", "hf:ID", or "package.module:factory". width: a
    multiple of every width. widths: an explicit list, its meaning in the model's docstring; wins over `width`.
    options: (name, value) pairs for the factory, or the library's builder.
    A factory of the user's own is given of in_shape, classes, width and widths those that it names as parameters.
    """

    name: str
    in_shape: tuple[int, int, int] = (3, 32, 32)
    classes: int = 10
    width: float = 1.0
    widths: tuple[int, ...] | None = None
    options: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.width) and self.width > 0):
            raise ConfigError(message("width must be a number above 0", f"{self.width}", "-", "give e.g. 0.5"))
        if self.classes < 1 or len(self.in_shape) != 3 or min(self.in_shape) < 1:
            raise ConfigError(
                message(
                    "in_shape must be (channels, height, width) and classes at least 1",
                    f"in_shape={self.in_shape}, classes={self.classes}",
                    "a batch axis in in_shape",
                    "leave the batch axis out",
                )
            )


def of_classes(config: ModelConfig, classes: int) -> ModelConfig:
    """The same model with another number of classes, which libraries take as an option of their own."""
    found = library_of(config.name)
    option = None if found is None else found[0].classes_option
    options = tuple((name, classes if name == option else value) for name, value in config.options)
    return replace(config, classes=classes, options=options)


def names() -> tuple[str, ...]:
    """The names of the zoo, sorted."""
    return tuple(sorted(ZOO))


def takes(name: str, setting: str) -> bool:
    """Whether the factory `name` has a parameter called `setting`; raises ConfigError for an unknown name."""
    return setting in parameters_of(find_builder(name))


def takes_width(name: str) -> bool:
    """Whether the factory `name` has a parameter called `width`; raises ConfigError for an unknown name."""
    return takes(name, "width")


def build(config: ModelConfig, *, seed: int | None = None) -> nn.Module:
    """The model, float32 on the CPU, with weights drawn from `seed`.

    The global random state is left as found. Without a seed the weights are those that the current global state
    gives (twice in a row: the same ones). Raises ConfigError for an unknown name, an argument that the factory does
    not take, a factory that raises, or one that returns no module.
    """
    factory = find_builder(config.name)
    arguments = _arguments(config, parameters_of(factory))
    with _seeded(seed):
        try:
            model = factory(**arguments)
        except PruningError:
            raise
        except Exception as error:
            raise ConfigError(
                message(
                    f"the factory {config.name!r} must return a module",
                    f"{type(error).__name__}: {error}",
                    f"an error in the factory, called with {arguments}",
                    "call it by hand with these arguments",
                )
            ) from error
    if not isinstance(model, nn.Module):
        raise ConfigError(
            message(
                f"the factory {config.name!r} must return a torch.nn.Module",
                type(model).__name__,
                "a factory of something else, or a missing return",
                "return the module",
            )
        )
    model = model.to(device="cpu", dtype=torch.float32)
    object.__setattr__(model, "bonsai_config", config)  # how `tb.save` knows the dense network's build
    return model


def _arguments(config: ModelConfig, parameters: dict[str, inspect.Parameter]) -> dict[str, Any]:
    """What to call the factory with; raises ConfigError for a setting that it would have to ignore."""
    given: dict[str, Any] = {"in_shape": config.in_shape, "classes": config.classes}
    arguments = {k: v for k, v in given.items() if k in parameters}
    asked: dict[str, Any] = dict(config.options)
    if config.width != 1.0:
        asked["width"] = config.width
    if config.widths is not None:
        asked["widths"] = config.widths
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    refused = [k for k in asked if k not in parameters and not (takes_any and k not in ("width", "widths"))]
    if refused:
        raise ConfigError(
            message(
                f"the factory {config.name!r} must take every setting it is given",
                f"it takes {', '.join(parameters) or 'nothing'}, not {', '.join(refused)}",
                "a setting of another model, or a factory without a width",
                "leave it out, or add the parameter to the factory",
            )
        )
    return arguments | asked


@contextlib.contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        yield
