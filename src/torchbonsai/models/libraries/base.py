"""What a library of networks must answer, and what is said where it is missing."""

from __future__ import annotations

import difflib
import importlib
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from torch import nn

from torchbonsai.core.errors import ConfigError, PruningError, message


class Library(Protocol):
    """One library. Nothing of it is imported before a method is called; every method raises ConfigError only.

    classes_option: the keyword of `factory` that sets how many classes the head has; "" where there is no one name.
    """

    classes_option: str

    def factory(self, name: str) -> Callable[..., nn.Module]:
        """What builds the network `name` with random weights; takes the library's own options as keywords."""

    def pretrained(self, name: str) -> nn.Module:
        """The network with the weights that the library's authors trained; downloads them."""

    def structure(self, name: str) -> dict[str, Any]:
        """Options for `factory` that give a network with the tensors of `pretrained(name)`."""

    def input_shape(self, name: str, model: nn.Module) -> tuple[int, ...] | None:
        """The input that the network was made for, without the batch; None where the library does not say."""


def imported(package: str, install: str) -> types.ModuleType:
    """The package. Raises ConfigError with the install line where it is missing, with the reason where it is broken."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package.partition(".")[0]:
            raise broken(package, error) from error
        raise ConfigError(
            message(
                f"models of {package} need the package {package}",
                "it is not installed",
                "it is optional: torchbonsai does not install it",
                install,
            )
        ) from error
    except Exception as error:
        raise broken(package, error) from error


def broken(package: str, error: Exception) -> ConfigError:
    """For a package that is installed and cannot be imported."""
    return ConfigError(
        message(
            f"models of {package} need the package {package}",
            f"it is installed, and importing it raises {_in_a_line(error)}",
            "its version, or that of a package it uses, was built for another version of torch",
            f"try: python -c 'import {package}', and install the versions that belong together",
        )
    )


@contextmanager
def speaking(name: str) -> Iterator[None]:
    """Any error of a library's own, building `name`, becomes a ConfigError that quotes it."""
    try:
        yield
    except PruningError:
        raise
    except Exception as error:
        raise ConfigError(
            message(
                f"the library must be able to build {name}",
                _in_a_line(error),
                "weights or a description that could not be downloaded, or a network that needs further packages",
                "try the same call by hand; give weights that you have with --weights FILE",
            )
        ) from error


def known(name: str, names: Sequence[str], prefix: str) -> None:
    """Raises ConfigError with near matches unless `name` is one of `names`."""
    if name in names:
        return
    near = [f"{prefix}:{n}" for n in difflib.get_close_matches(name, names, n=4, cutoff=0.5)]
    raise ConfigError(
        message(
            f"{prefix}:NAME must name one of the {len(names)} models of {prefix}",
            repr(name),
            f"a typing error; near: {', '.join(near)}" if near else "a network of another library",
            f"see {prefix}'s list of models",
        )
    )


def _in_a_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" + ("…" if len(text) > 300 else "")
