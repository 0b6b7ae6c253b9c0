"""`bonsai recipe NAME`: a paper's procedure, with its controls, on one's own model and data."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Union

import tyro
from rich.console import Console

from torchbonsai.cli.compare import tell
from torchbonsai.cli.live import Live
from torchbonsai.report.page import write_page
from torchbonsai.study.about import Study, read_study
from torchbonsai.study.recipes import RECIPES, follow, from_file
from torchbonsai.study.recipes.settings import RecipeSettings
from torchbonsai.study.settings import seeds

if TYPE_CHECKING:
    Chosen = RecipeSettings
else:
    Chosen = Union[  # noqa: UP007  made from a list
        tuple(Annotated[recipe.config, tyro.conf.subcommand(name)] for name, recipe in RECIPES.items())
    ]


MARKERS = (tyro.conf.CascadeSubcommandArgs,)
"""--json and --config may stand after the name of the recipe, too."""
Config = Annotated[
    str | None,
    tyro.conf.arg(
        help=f"Settings from a TOML file, or from one that ships: {', '.join(from_file.names())}. "
        "Options of the command line win over them."
    ),
]


@dataclass(frozen=True)
class Arguments:
    """Follow a paper's procedure by real training: its arms and their controls, under both fairnesses.

    `bonsai recipe NAME --help` says what of it is the paper's and what is ours. A run that was broken off goes on
    where it stopped. It ends in records, the smallest networks chosen on validation, and a report.
    """

    recipe: Annotated[Chosen, tyro.conf.arg(name="")]
    json: bool = False
    """Print records and findings as JSON instead of tables."""
    config: Config = None


def expanded(arguments: Sequence[str]) -> list[str]:
    """The command line with the settings of its --config, if it has one, as options in front of its own, which win.

    Raises ConfigError for a file that is none, is for another recipe, or holds what is no setting of it.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    given, own = parser.parse_known_args(list(arguments))
    place = next((n for n, text in enumerate(own) if text in RECIPES), None)
    if given.config is None or place is None:
        return list(arguments)
    said = [text.partition("=")[0].removeprefix("--").replace("-", "_") for text in own if text.startswith("--")]
    found = from_file.read(given.config, own[place])
    options = _options(from_file.without(found, said, RECIPES[own[place]].config.either))
    return [*own[: place + 1], *options, *own[place + 1 :]]


def _options(settings: Mapping[str, Any]) -> Iterator[str]:
    for name, value in settings.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{option}" if value else f"--no-{option}"
        elif isinstance(value, tuple):
            yield from (f"--{option}", *map(str, value))
        else:
            yield from (f"--{option}", str(value))


def run(arguments: Arguments) -> int:
    """Follow, print, write the report."""
    settings = arguments.recipe
    if len(settings.seeds) == 1:
        settings = replace(settings, seeds=seeds(settings.seeds[0]))
    study = followed(settings, Console(stderr=True, highlight=False, markup=False))
    tell(study, as_data=arguments.json)
    return 0


def followed(settings: RecipeSettings, console: Console) -> Study:
    """Follow the recipe whose settings these are, with a live view; write the report and return the study."""
    (recipe,) = (r for r in RECIPES.values() if r.config is type(settings))
    made: Any = recipe(settings)
    with Live([], console) as live:
        follow(made, settings, on_event=live.on_event, on_record=live.on_record)
    study = read_study(settings.out)
    write_page(study)
    return study
