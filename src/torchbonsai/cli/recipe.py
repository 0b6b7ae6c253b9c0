"""`bonsai recipe NAME`: a paper's procedure, with its controls, on one's own model and data."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Union

import tyro
from rich.console import Console

from torchbonsai.cli.compare import as_json, dump, show, tell, warn_of_other
from torchbonsai.cli.live import Live
from torchbonsai.report.page import write_page
from torchbonsai.study.about import Study, read_study
from torchbonsai.study.recipes import RECIPES, follow, from_file
from torchbonsai.study.recipes.settings import RecipeSettings
from torchbonsai.study.settings import seeds, wrong

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
    """Print records and findings as JSON instead of tables; of several studies a list."""
    config: Config = None
    usual: bool = False
    """Run the usual pairs of model and data of bonsai-hypothesis and pretraining-impact (docs/recipes.md), each a study
    of its own in OUT/MODEL-DATA. So it is, too, where none of --model, --data and --source is given."""


def expanded(arguments: Sequence[str]) -> list[str]:
    """The command line with the settings of its --config, if it has one, as options in front of its own, which win.

    Raises ConfigError for a file that is none, is for another recipe, or holds what is no setting of it.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    given, own = parser.parse_known_args(list(arguments))
    place = next((n for n, text in enumerate(own) if text in RECIPES), None)
    if place is None:
        return list(arguments)
    if given.config is not None:
        found = from_file.read(given.config, own[place])
        if "usual" in _said(own):  # the command line's wins
            found = {name: value for name, value in found.items() if name not in ("model", "data")}
        options = _options(from_file.without(found, _said(own), RECIPES[own[place]].config.either))
        own = [*own[: place + 1], *options, *own[place + 1 :]]
    return _usual(own, own[place])


def _said(arguments: Sequence[str]) -> list[str]:
    """The settings that options name."""
    return [text.partition("=")[0].removeprefix("--").replace("-", "_") for text in arguments if text.startswith("--")]


def _usual(arguments: list[str], name: str) -> list[str]:
    """With --usual where no model, data or source is named. Raises ConfigError where it makes no sense."""
    said, pairs = _said(arguments), RECIPES[name].config.usual
    one = [option for option in ("model", "data") if option in said]
    if "usual" in said and not pairs:
        raise wrong("--usual is for recipes that are usually run on several models or data sets", f"--usual of {name}")
    if "usual" in said and one:
        must = "--usual says which model and which data"
        raise wrong(must, f"--usual beside {' and '.join(f'--{option}' for option in one)}")
    decided = {"usual", "no_usual", "source", *one} & {*said}
    return arguments if decided or not pairs else [*arguments, "--usual"]


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
    """Follow, print, write the report; of several studies one after the other, each looked at before the first."""
    settings = arguments.recipe
    if len(settings.seeds) == 1:
        settings = replace(settings, seeds=seeds(settings.seeds[0]))
    console = Console(stderr=True, highlight=False, markup=False)
    if not arguments.usual:
        tell(followed(settings, console), as_data=arguments.json)
        return 0
    several, studies = settings.each_usual(), []
    for one in several:
        console.print(f"{one.model} on {one.data}, in {one.out}", soft_wrap=True)
        _recipe(one).look(one)
    for one in several:
        studies.append(followed(one, console))
        if not arguments.json:
            show(studies[-1])
    if arguments.json:
        dump([as_json(study) for study in studies])
    return 0


def followed(settings: RecipeSettings, console: Console) -> Study:
    """Follow the recipe whose settings these are, with a live view; write the report and return the study."""
    warn_of_other(settings, console)
    with Live([], console) as live:
        follow(_recipe(settings), settings, on_event=live.on_event, on_record=live.on_record)
    study = read_study(settings.out)
    write_page(study)
    return study


def _recipe(settings: RecipeSettings) -> Any:
    """The recipe whose settings these are."""
    (recipe,) = (r for r in RECIPES.values() if r.config is type(settings))
    return recipe(settings)
