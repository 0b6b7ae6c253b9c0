"""How narrow a group may get in rounds: a share of its dense width; and what is told of layers that are that narrow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_recipes import followed, made_up, of

import torchbonsai as tb
from torchbonsai.study.recipes import RECIPES, from_file
from torchbonsai.study.recipes.bonsai_hypothesis import BonsaiHypothesis
from torchbonsai.study.recipes.linear_filter_ensembles import LinearFilterEnsembles
from torchbonsai.study.recipes.narrow import narrowest
from torchbonsai.study.recipes.pruning_from_scratch import PruningFromScratch
from torchbonsai.study.stages.floor import floor_of

SHORT = {
    "model": "bonsai_small",
    "augment": (),
    "limit_train": 32,
    "start_epochs": 1,
    "rounds": 3,
    "round_epochs": 1,
    "equal_compute": False,
}


def test_a_share_is_of_the_dense_width_in_every_round(tmp_path: Path) -> None:
    """A share of what a round finds would be half and half again."""
    records = followed("bonsai-hypothesis", tmp_path, **SHORT, methods=("bn-scale",), budget="1.9x", min_channels=0.5)
    for r in of(records, ""):
        assert r.dense_widths == dict(zip(r.dense_widths, (16, 16, 32, 32), strict=True))
        assert all(r.widths[name] >= dense / 2 for name, dense in r.dense_widths.items())
        assert sum(r.widths.values()) < 1.1 * sum(r.dense_widths.values()) / 2, "far enough for the floor to matter"


def test_floors_of_all_recipes_that_take_a_share(tmp_path: Path) -> None:
    trimmed = {**SHORT, "model": "lenet", "rounds": 1, "deviations": 0.0, "min_channels": 0.9}
    for r in of(followed("network-trimming", tmp_path / "apoz", **trimmed), ""):
        assert all(width >= 0.9 * r.dense_widths[name] for name, width in r.widths.items())
        assert sum(r.widths.values()) < sum(r.dense_widths.values())
    uniform = {**SHORT, "source_epochs": 1, "share": 0.5, "min_channels": 0.4}
    for r in of(followed("pretraining-impact", tmp_path / "uniform", **uniform), ""):
        assert [*r.widths.values()] == [7, 7, 13, 13], "40 %, rounded up"
    gates = {name: value for name, value in SHORT.items() if "round" not in name} | {"epochs": 1, "gate_epochs": 1}
    gates |= {"scratch_b": False, "score_images": 32, "min_channels": 0.6}
    for r in of(followed("pruning-from-scratch", tmp_path / "gates", **gates), ""):
        assert all(width >= 0.6 * r.dense_widths[name] for name, width in r.widths.items())


def test_a_share_is_rounded_up_and_two_at_least_and_a_count_is_a_count() -> None:
    assert [floor_of(0.05, n) for n in (16, 40, 41, 128)] == [2, 2, 3, 7]
    assert [floor_of(n, 128) for n in (1, 5)] == [1, 5]
    for settings in (BonsaiHypothesis(), LinearFilterEnsembles(), PruningFromScratch()):
        assert settings.min_channels == 0.05


def test_a_floor_is_a_count_or_a_share(tmp_path: Path) -> None:
    for wrong in (0, -1, 0.0, 1.5, float("nan"), True):
        with pytest.raises(tb.ConfigError, match="min_channels must be an int of at least 1"):
            BonsaiHypothesis(min_channels=wrong)
    (tmp_path / "mine.toml").write_text('recipe = "bonsai-hypothesis"\nmin_channels = 0.1\n')
    assert from_file.read(tmp_path / "mine.toml") == {"min_channels": 0.1}


def test_layers_at_the_floor_after_the_first_cut_are_told() -> None:
    cut = [made_up("untrained", seed, [(10, 0.5), (1 + (seed == 2), 0.4), (1, 0.3)]) for seed in range(3)]
    dense = [made_up("untrained", seed, [(10, 0.5), (10, 0.6), (10, 0.7)], "dense") for seed in range(3)]
    recipe = RECIPES["bonsai-hypothesis"]
    told = narrowest([*cut, *dense], recipe.config(min_channels=1))
    assert told == [
        "l2 under equal-epochs, untrained start, collapsed after the first cut: conv has 1 of 10 channels in 2 of 3 "
        "seeds."
    ], "the third seed's has two"
    held = [replace(r, rounds=tuple(replace(p, widths={"conv": max(3, p.channels)}) for p in r.rounds)) for r in cut]
    (at_floor,) = narrowest(held, recipe.config(min_channels=0.25))
    assert at_floor.endswith("at the floor after the first cut: conv has 3 of 10 channels in 3 of 3 seeds.")
    assert narrowest(held, recipe.config(min_channels=2)) == []
    assert "at the floor after the first cut" in narrowest(held, recipe.config(min_channels=2, round_to=3))[0]
