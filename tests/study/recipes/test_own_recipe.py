"""A recipe of one's own, written as docs/recipes.md says; one that is not finished is refused before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from tiny_recipes import TINY, arms

import torchbonsai as tb
from torchbonsai.study.about import read_study
from torchbonsai.study.arms import Material
from torchbonsai.study.recipes import follow
from torchbonsai.study.recipes.chain import Chain
from torchbonsai.study.recipes.iterative import Iterative
from torchbonsai.study.recipes.kit import Kit, look_at
from torchbonsai.study.recipes.settings import RecipeSettings, RoundSettings
from torchbonsai.study.record import RunRecord, Unit
from torchbonsai.study.runs import Finished
from torchbonsai.study.stage import Stage

SMALL: dict[str, Any] = TINY | {"limit_train": 64, "val_size": 50, "start_epochs": 0.5, "warmup_epochs": 0}


class Halves:
    """Controls alone: there is no method whose size the others could be held to."""

    name: ClassVar[str] = "halves"
    method: ClassVar[str] = "Ours: half of the MACs, uniform width."
    unit: ClassVar[Unit] = "macs"

    def look(self, settings: RecipeSettings) -> tuple[Material, dict[str, str]]:
        return look_at(settings)

    def chains(self, kit: Kit, finished: Finished) -> Sequence[Chain]:
        uniform = [(seed, *kit.uniform("50%", seed, 0.5)) for seed in kit.settings.seeds]
        return [kit.one_training(arm, seed, start, kit.settings.start_epochs) for seed, arm, start in uniform]

    def more_data(self, kit: Kit) -> dict[str, str]:
        return {}

    def sentences(self, records: Sequence[RunRecord]) -> list[str]:
        return [f"{len(records)} networks."]


@dataclass(frozen=True)
class OneCut(RoundSettings):
    methods: tuple[str, ...] = ("l1",)
    budget: str = "50%"


class Rounds(Iterative):
    """Cut once, to half of the MACs."""

    name = "one-cut"
    method = "Ours: the smallest L1 norms go."

    def starts(self, kit: Kit, seed: int) -> dict[str, Stage]:
        return {"untrained": kit.new(seed)}

    def cut(self, kit: Kit, method: str, seed: int, model: Stage, number: int) -> Stage:
        return Stage(kit.prune(method, 0.5, seed), {"model": model}, f"{method}, round {number + 1}")

    def sentences(self, records: Sequence[RunRecord]) -> list[str]:
        return []


def test_a_recipe_of_controls_alone_runs_to_its_end(tmp_path: Path) -> None:
    (record,) = follow(Halves(), RecipeSettings(**SMALL, out=str(tmp_path)))
    about = read_study(tmp_path).about
    assert about.sentences == ("1 networks.",)
    (choice,) = about.choices
    assert (choice.runs, choice.larger, choice.macs) == (1, 0, record.macs)
    assert tb.load(tmp_path / "best" / "50%")(torch.zeros(1, 1, 14, 14)).shape == (1, 5)


def test_a_recipe_in_rounds_says_what_starts_and_what_cuts(tmp_path: Path) -> None:
    settings = OneCut(**SMALL, rounds=1, round_epochs=0.5, equal_compute=False, out=str(tmp_path))
    records = follow(Rounds(settings), settings)
    cut = {("untrained", "l1", control) for control in ("", "random-widths", "reinitialised")}
    assert arms(records, "equal-epochs") == cut | {("untrained", "", control) for control in ("uniform-new", "dense")}


@pytest.mark.parametrize("lacks", ["unit", "more_data", "look"])
def test_a_recipe_that_lacks_a_member_is_refused_before_anything_runs(lacks: str, tmp_path: Path) -> None:
    unfinished = type("Unfinished", (), {n: v for n, v in vars(Halves).items() if n not in (lacks, "__dict__")})
    with pytest.raises(tb.ConfigError, match=f"Unfinished without {lacks}\n"):
        follow(unfinished(), RecipeSettings(**SMALL, out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_a_unit_that_nobody_counts_is_refused(tmp_path: Path) -> None:
    odd = type("Odd", (Halves,), {"unit": "flops"})
    with pytest.raises(tb.ConfigError, match=r"macs, params, channels(.|\n)*unit = 'flops'"):
        follow(odd(), RecipeSettings(**SMALL, out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
