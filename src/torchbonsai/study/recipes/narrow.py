"""Layers that the first cut of a recipe left at their floor, or with one channel: a network collapsed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from torchbonsai.study.recipes.settings import RecipeSettings
from torchbonsai.study.record import Arm, RunRecord
from torchbonsai.study.stages.floor import floor_of


def narrowest(records: Sequence[RunRecord], settings: RecipeSettings) -> list[str]:
    """One sentence an arm that a method cut, where it has such layers: how many channels, in how many seeds."""
    by_arm: dict[Arm, list[RunRecord]] = {}
    for record in records:
        if record.arm.control == "":
            by_arm.setdefault(record.arm, []).append(record)
    several = len({arm.budget for arm in by_arm}) > 1
    return [s for arm, found in by_arm.items() for s in _told(arm, found, settings, several)]


def _told(arm: Arm, records: Sequence[RunRecord], settings: RecipeSettings, several: bool) -> Iterator[str]:
    """several: are there arms of other budgets."""
    seeds = Counter(layer for record in records for layer in _at_floor(record, settings))
    for what, mine in (
        ("collapsed", [(n, w) for n, w in seeds if w == 1]),
        ("at the floor", [(n, w) for n, w in seeds if w > 1]),
    ):
        if mine:
            dense = records[0].dense_widths
            layers = [f"{n} has {w} of {dense[n]} channels in {seeds[n, w]} of {len(records)} seeds" for n, w in mine]
            at = f" at {arm.budget}" if several else ""
            where = f"{arm.method}{at} under {arm.fairness}, {arm.start_name} start"
            yield f"{where}, {what} after the first cut: {', '.join(layers)}."


def _at_floor(record: RunRecord, settings: RecipeSettings) -> Iterator[tuple[str, int]]:
    """(layer, channels) of the layers that are as narrow as they may be after the round that cut first."""
    dense = record.dense_widths
    first = next((r for r in record.rounds if any(r.widths.get(n, w) < w for n, w in dense.items())), None)
    widths = first.widths if first is not None else dense
    for name, size in dense.items():
        floor = -(-floor_of(settings.min_channels, size) // settings.round_to) * settings.round_to
        width = widths.get(name, size)
        if width < size and width <= floor:
            yield name, width
