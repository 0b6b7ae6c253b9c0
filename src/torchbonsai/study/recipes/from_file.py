"""Settings of a recipe from a TOML file: one that ships with the package, by its name, or one's own.

from torchbonsai.study.recipes import RECIPES, from_file
settings = RECIPES["pruning-from-scratch"].config(**from_file.read("pfs-imagenet-resnet50", data_dir="DIR"))
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import fields
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from torchbonsai.core.errors import ConfigError, message
from torchbonsai.study.recipes import RECIPES
from torchbonsai.study.settings import wrong

RECIPE = "recipe"
"""The key that says which recipe a file is for."""


def names() -> tuple[str, ...]:
    """The files that ship, without their ending, sorted."""
    return tuple(sorted(f.name.removesuffix(".toml") for f in _folder().iterdir() if f.name.endswith(".toml")))


def read(config: str | Path, recipe: str | None = None, **instead: Any) -> dict[str, Any]:
    """The settings in a file, as keywords for the recipe's `config`.

    config: a name of `names()`, or the path of a TOML file, whose keys are the recipe's settings and `recipe`, the
    name of a recipe. recipe: what it must be for; default: what the file says. instead: settings that win over those
    in the file. Raises ConfigError for no such file, what is no TOML, another recipe, a key
    that is no setting, or a value of another type.
    """
    source = _folder() / f"{config}.toml" if str(config) in names() else Path(config).expanduser()
    found = _parsed(source, str(config))
    meant = found.pop(RECIPE, recipe)
    if meant not in list(RECIPES) or (recipe is not None and meant != recipe):
        raise wrong(f"{config} must be for {recipe or 'one of ' + ', '.join(RECIPES)}", f"{RECIPE} = {meant!r}")
    known = [f.name for f in fields(RECIPES[meant].config)]
    unknown = [key for key in (*found, *instead) if key not in known]
    if unknown:
        raise wrong(f"{config} must hold settings of {meant}: {RECIPE}, {', '.join(known)}", ", ".join(unknown))
    found = without(found, instead, RECIPES[meant].config.either)
    hints = get_type_hints(RECIPES[meant].config)
    for key, value in found.items():
        if not _fits(value, hints[key]):
            raise wrong(f"{config}: {key} must be {_said(hints[key])}", repr(value))
    return {key: tuple(v) if isinstance(v, list) else v for key, v in (found | instead).items()}


def without(found: Mapping[str, Any], said: Collection[str], either: Collection[str]) -> dict[str, Any]:
    """The settings that stay: those that say in one way what `said` says in another (`either`) have lost to it."""
    lost = either if any(name in either for name in said) else ()
    return {key: value for key, value in found.items() if key not in lost}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of a TOML file is of the type; one alone may stand for a list of one."""
    kinds = get_args(hint)
    if get_origin(hint) is Literal:
        return value in kinds
    if get_origin(hint) is tuple:
        return all(_fits(v, kinds[0]) for v in (value if isinstance(value, list) else [value]))
    if kinds:
        return any(_fits(value, kind) for kind in kinds if kind is not NoneType)
    if isinstance(value, bool):  # which Python takes for a number
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _said(hint: Any) -> str:
    return str(hint).removeprefix("<class '").removesuffix("'>").replace("typing.", "")


def _folder() -> Traversable:
    return resources.files("torchbonsai.study.recipes") / "configs"


def _parsed(source: Traversable | Path, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        must = f"a config is a TOML file, or one of {', '.join(names())}"
        cause = "a mistyped name or path, or a file of another format"
        raise ConfigError(message(must, f"{name}: {error}", cause, "see docs/recipes.md")) from error
