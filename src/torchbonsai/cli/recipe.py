"""`bonsai recipe NAME`: a paper's procedure, with its controls, on one's own model and data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Union

import tyro
from rich.console import Console

from torchbonsai.cli.compare import tell
from torchbonsai.cli.live import Live
from torchbonsai.report.page import write_page
from torchbonsai.study.about import Study, read_study
from torchbonsai.study.recipes import RECIPES, follow
from torchbonsai.study.recipes.settings import RecipeSettings
from torchbonsai.study.settings import seeds

if TYPE_CHECKING:
    Chosen = RecipeSettings
else:
    Chosen = Union[  # noqa: UP007  made from a list
        tuple(Annotated[recipe.config, tyro.conf.subcommand(name)] for name, recipe in RECIPES.items())
    ]


MARKERS = (tyro.conf.CascadeSubcommandArgs,)
"""--json may stand after the name of the recipe, too."""


@dataclass(frozen=True)
class Arguments:
    """Follow a paper's procedure by real training: its arms and their controls, under both fairnesses.

    `bonsai recipe NAME --help` says what of it is the paper's and what is ours. A run that was broken off goes on
    where it stopped. It ends in records, the smallest networks chosen on validation, and a report.
    """

    recipe: Annotated[Chosen, tyro.conf.arg(name="")]
    json: bool = False
    """Print records and findings as JSON instead of tables."""


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
