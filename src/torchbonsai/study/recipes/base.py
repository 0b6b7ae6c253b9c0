"""A recipe: a paper's procedure as arms of stages. The one runner runs it, so that nothing here resumes anything."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, get_args

from torchbonsai.core.config import plain
from torchbonsai.core.errors import ConfigError, message
from torchbonsai.study import stages  # noqa: F401  registers the kinds of stages
from torchbonsai.study.about import About, write_about
from torchbonsai.study.arms import Material
from torchbonsai.study.best import choose
from torchbonsai.study.executor import running
from torchbonsai.study.recipes.chain import Chain, Draft, record_of
from torchbonsai.study.recipes.kit import Kit
from torchbonsai.study.recipes.settings import RecipeSettings
from torchbonsai.study.record import RunRecord, Unit, write
from torchbonsai.study.runner import Event, run
from torchbonsai.study.runs import Finished
from torchbonsai.study.settled import settled
from torchbonsai.study.stages.train import Train
from torchbonsai.study.store import Done, Store, check_writable, versions
from torchbonsai.study.summary import command, data_in_words, hardware

OnEvent = Callable[[Event], None]
OnRecord = Callable[[RunRecord], None]


class Recipe(Protocol):
    """name: of the command. method: what of it is the paper's and what is ours, in words. unit: what its budget counts,
    so that what is handed over as small is."""

    name: ClassVar[str]
    method: ClassVar[str]
    unit: ClassVar[Unit]

    def look(self, settings: RecipeSettings) -> tuple[Material, dict[str, str]]:
        """What is worked on, and the places where its content lies. Raises DataError or ConfigError."""
        ...

    def chains(self, kit: Kit, finished: Finished) -> Sequence[Chain | Draft]:
        """All arms as far as they can be said: asked again when those are done, until all that are named are.

        finished: a stage's spec -> what it left. Equal-compute arms, for instance, follow from what others spent.
        """
        ...

    def more_data(self, kit: Kit) -> dict[str, str]:
        """What the study worked on beside the target; `pretrained_on`, for one."""
        ...

    def sentences(self, records: Sequence[RunRecord]) -> list[str]:
        """What was found, with intervals that name themselves."""
        ...


MEMBERS = ("name", "method", "unit", "look", "chains", "more_data", "sentences")
"""What every recipe has."""


def check(recipe: Recipe) -> None:
    """Raises ConfigError for a recipe that lacks a member, or whose unit nobody counts: before anything is trained."""
    lacks = [name for name in MEMBERS if not hasattr(recipe, name)]
    units = get_args(Unit)
    if lacks or recipe.unit not in units:
        raise ConfigError(
            message(
                f"a recipe must have {', '.join(MEMBERS)}, and its unit must be of {', '.join(units)}",
                f"{type(recipe).__name__} without {', '.join(lacks)}" if lacks else f"unit = {recipe.unit!r}",
                "a class of one's own that is not finished",
                "add them as docs/recipes.md, In Python, says; a recipe in rounds has most of them from Iterative",
            )
        )


def follow(
    recipe: Recipe,
    settings: RecipeSettings,
    *,
    on_event: OnEvent = lambda event: None,
    on_record: OnRecord = lambda record: None,
) -> list[RunRecord]:
    """Run a recipe to its end; what is done already is found. Returns the records, which are also in `out/records`.

    on_event: told of every stage. on_record: given every run as soon as its accuracy is known. The smallest networks
    chosen on validation and `study.json` are in `out`. Raises ConfigError for a recipe that lacks a member, and a
    PruningError that names the stage where one fails; what is done stays, and the same call goes on from there.
    """
    check(recipe)
    out = Path(settings.out)
    finished: dict[str, Done] = {}
    chains: Sequence[Chain | Draft] = []

    def listener(event: Event) -> None:
        if event.output is not None:
            finished[event.stage.spec] = event.output
        on_event(event)
        for chain in chains:
            if isinstance(chain, Chain) and event.output is not None and chain.tested.spec == event.stage.spec:
                on_record(record_of(chain, finished, settings.identity))

    store = Store(out / "stages")
    # Workers import while this process looks.
    with running(store, settings.workers, settings.threads, settings.devices) as executor:
        material, places = recipe.look(settings)
        check_writable(out)
        listed = (s.config for c in recipe.chains(Kit(settings.concrete, material), {}) for s in c.stages)
        lengths = [config.training.epochs for config in listed if isinstance(config, Train)]
        epochs = statistics.median(lengths) if lengths else 1.0
        settings, measured = settled(settings, material, epochs, store, executor, listener=on_event, places=places)
        kit = Kit(settings, material)
        while True:
            chains = recipe.chains(kit, finished)
            if all(chain.done(finished) for chain in chains):
                break
            todo = [stage for chain in chains if not chain.done(finished) for stage in chain.stages]
            run(todo, store, executor, listener=listener, places=places)
    arms = [chain for chain in chains if isinstance(chain, Chain)]
    records = [record_of(chain, finished, settings.identity) for chain in arms]
    for record in records:
        write(record, out / "records")
    _summarise(recipe, kit, arms, records, finished, measured)
    return records


def _summarise(
    recipe: Recipe,
    kit: Kit,
    chains: Sequence[Chain],
    records: Sequence[RunRecord],
    finished: Finished,
    measured: Mapping[str, str],
) -> None:
    """Save the best small network of each budget, then write `study.json`."""
    out = Path(kit.settings.out)
    trained = {r.name: finished[c.trained.spec] for c, r in zip(chains, records, strict=True)}
    budgets = dict.fromkeys(r.arm.budget for r in records if r.arm.budget and r.arm.control != "dense")
    config: dict[str, Any] = plain(kit.settings)
    about = About(
        identity=kit.settings.identity,
        config=config,
        data=data_in_words(kit.material.splits) | recipe.more_data(kit),
        versions=versions(),
        hardware=hardware(kit.settings.device) | dict(measured),
        records=tuple(f"{record.name}.json" for record in records),
        choices=tuple(choose(records, trained, budget, recipe.unit, out) for budget in budgets),
        command=command(),
        recipe=recipe.name,
        sentences=tuple(recipe.sentences(records)),
        method=recipe.method,
    )
    write_about(about, out)
