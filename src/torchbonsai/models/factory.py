"""Finding `package.module:factory`, the user's own way of building a model."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torchbonsai.core.errors import ConfigError, message


def find_factory(name: str, zoo: Sequence[str]) -> Callable[..., Any]:
    """The callable that `name` ("package.module:factory") means; the working directory is searched too.

    Raises ConfigError where the name has no colon, the module cannot be imported, or it holds no such callable.
    """
    module_name, colon, attribute = name.partition(":")
    if not (colon and module_name and attribute):
        near = difflib.get_close_matches(name, zoo, n=3)
        raise ConfigError(
            message(
                "a model is a name of the zoo or package.module:factory",
                repr(name),
                f"a typing error; near: {', '.join(near)}" if near else "a name of another library",
                f"the zoo has {', '.join(zoo)}; others are timm:NAME, torchvision:NAME, hf:ID, or a saved folder",
            )
        )
    found = _import(module_name, name)
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise ConfigError(
            message(
                f"module {module_name!r} must hold a callable {attribute!r}",
                "nothing of that name" if found is None else type(found).__name__,
                "a typing error",
                f"look at dir({module_name})",
            )
        )
    return found


def _import(module_name: str, name: str) -> Any:
    try:
        with _working_directory_on_path():
            return importlib.import_module(module_name)
    except Exception as error:
        raise ConfigError(
            message(
                f"the module of the factory {name!r} must be importable",
                f"{type(error).__name__}: {error}",
                "it is not installed, lies elsewhere, or raises when it is imported",
                f"try: python -c 'import {module_name}'",
            )
        ) from error


@contextlib.contextmanager
def _working_directory_on_path() -> Iterator[None]:
    """A console script does not search the working directory by itself, as `python -m` does."""
    here = os.getcwd()
    if here in sys.path or "" in sys.path:
        yield
        return
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)
