"""`bonsai compare`: a thin command over `tb.study.compare`, its flags named as the keywords are."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.text import Text

from torchbonsai.cli.live import Live
from torchbonsai.core.units import MACS_CONVENTION
from torchbonsai.report import console as tables
from torchbonsai.report import words
from torchbonsai.report.page import write_page
from torchbonsai.study.about import Choice, Study, read_study, replaced
from torchbonsai.study.comparison import compare_config
from torchbonsai.study.config import FAIRNESS, CompareConfig, seeds
from torchbonsai.study.findings import findings
from torchbonsai.study.settings import Settings


@dataclass(frozen=True)
class Arguments:
    """Compare ways of pruning a CNN: starting point x method x budget x seed, by real training.

    Controls are always in: random channels at the same widths, uniform width from new weights at the same MACs, the
    dense network trained equally long. A run that was broken off goes on where it stopped.
    """

    config: Annotated[CompareConfig, tyro.conf.arg(name="")] = field(default_factory=CompareConfig)
    json: bool = False
    """Print records and findings as JSON instead of tables."""


def run(arguments: Arguments) -> int:
    """Compare, print, write the report."""
    config = arguments.config
    if len(config.seeds) == 1:
        config = replace(config, seeds=seeds(config.seeds[0]))
    study = compared(config, Console(stderr=True, highlight=False, markup=False))
    tell(study, as_data=arguments.json)
    return 0


def compared(config: CompareConfig, console: Console) -> Study:
    """Run the comparison with a live view, write the report, and return the study."""
    warn_of_other(config, console)
    columns = [(b, f) for f in FAIRNESS for b in config.fair(f)]
    with Live(columns, console) as live:
        compare_config(config, on_event=live.on_event, on_record=live.on_record)
    study = read_study(config.out)
    write_page(study)
    return study


def warn_of_other(settings: Settings, console: Console) -> None:
    """Say so where the folder holds a study with other settings, whose report this one replaces."""
    if said := replaced(settings):
        console.print(f"note: {said}", soft_wrap=True)


def tell(study: Study, *, as_data: bool) -> None:
    """Print the study, as tables or as JSON."""
    if as_data:
        dump(as_json(study))
    else:
        show(study)


def dump(data: object) -> None:
    """Print JSON."""
    json.dump(data, sys.stdout, indent=1)
    print()


def show(study: Study) -> None:
    """Tables, sentences, and where everything lies."""
    tables.show(study)
    print()
    for choice in study.about.choices:
        tables.make_console().print(Text(chosen(choice, study.about.data)), soft_wrap=True)
    where = Path(study.folder)
    print(f"records {where / 'records'}\nreport  {where / 'report.html'}")
    for choice in study.about.choices:
        print(f"\nthe best small network at {choice.budget}, in {where / choice.folder}:\n{indented(choice.load)}")


def chosen(choice: Choice, data: Mapping[str, Any]) -> str:
    """The best network in a sentence: chosen on validation, test beside it, from how many."""
    where = words.tested(data) if "unseen" in data else "test"
    return (
        f"Best at {choice.budget}: {choice.arm}, seed {choice.seed}; {choice.val_accuracy:.1%} on validation, by which "
        f"it was chosen from {words.chosen_from(choice)}; {choice.test_accuracy:.1%} on {where}."
    )


def indented(text: str) -> str:
    """Lines of code under a sentence."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def as_json(study: Study) -> dict[str, object]:
    """The study as JSON data."""
    return {
        "folder": str(study.folder),
        "macs_convention": MACS_CONVENTION,
        "data": study.about.data,
        "hardware": study.about.hardware,
        "versions": study.about.versions,
        "config": study.about.config,
        "records": [record.to_json() for record in study.records],
        "findings": [
            {"budget": f.budget, "fairness": f.fairness, "sentence": f.sentence} for f in findings(study.records)
        ],
        "choices": [vars(choice) for choice in study.about.choices],
        "recipe": study.about.recipe,
        "sentences": list(study.about.sentences),
    }
