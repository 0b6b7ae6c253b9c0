"""Linear filter ensembles as a recipe: held-out images, rounds to the budget, a fully connected network."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_recipes import TINY, arms, followed, of

from torchbonsai.core.config import plain
from torchbonsai.study.about import read_study
from torchbonsai.study.recipes.kit import Kit
from torchbonsai.study.recipes.linear_filter_ensembles import LinearFilterEnsembles, Recipe
from torchbonsai.study.record import RunRecord
from torchbonsai.study.stages.prune import Prune

SMALL = {
    "model": "mlp",
    "augment": (),
    "width": 0.05,
    "start_epochs": 2,
    "rounds": 2,
    "round_epochs": 1,
    "hold_out": 32,
    "methods": ("lfe", "l1"),
    "budget": "4x",
    "equal_compute": False,
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[RunRecord]]:
    out = tmp_path_factory.mktemp("lfe")
    return out, followed("linear-filter-ensembles", out, **SMALL)


def test_arms_and_controls(study: tuple[Path, list[RunRecord]]) -> None:
    _, records = study
    methods = ("lfe", "l1")
    cut = {("trained", m, control) for m in methods for control in ("", "random-widths")}
    new = {("untrained", m, "reinitialised") for m in methods} | {("untrained", "", "uniform-new")}
    assert arms(records, "equal-epochs") == cut | new | {("trained", "", "dense")}


def test_images_that_are_scored_on_are_trained_on_by_no_arm(study: tuple[Path, list[RunRecord]]) -> None:
    _, records = study
    assert {r.samples for r in records if r.arm.fairness == "equal-epochs"} == {2 * (96 - 32)}
    (lfe,) = of(records, "", method="lfe")
    images_scored, forward = 32, lfe.dense_macs
    neurons = sum(lfe.dense_widths.values())
    assert lfe.spent.scoring >= 4 * neurons * images_scored * forward, "at least four masks a channel, each a pass"
    assert of(records, "", method="l1")[0].spent.scoring == 0


def test_the_budget_is_met_in_rounds(study: tuple[Path, list[RunRecord]]) -> None:
    out, records = study
    for r in of(records, ""):
        first, second = r.rounds
        assert first.macs <= 0.5 * r.dense_macs
        assert 0.15 * r.dense_macs < second.macs <= 0.25 * r.dense_macs
        assert r.verification["exact"]
    about = read_study(out).about
    assert "2001.08142" in about.method == Recipe.method
    assert about.sentences[0].startswith("lfe under equal-epochs left")


def test_how_sure_the_scores_are_is_told_and_recorded(study: tuple[Path, list[RunRecord]]) -> None:
    out, records = study
    (lfe,), (l1,) = (of(records, "", method=m) for m in ("lfe", "l1"))
    assert len(lfe.scored) == 2, "once a round"
    assert l1.scored == ()
    for told in lfe.scored:
        assert told["masks"] >= 4 * told["channels"]
        assert told["standard_error"] > 0
    (sentence,) = (s for s in read_study(out).about.sentences if "standard error" in s)
    assert sentence.startswith("lfe under equal-epochs: ")


def test_one_share_of_every_layer_by_an_option_of_the_method(tmp_path: Path) -> None:
    settings = SMALL | {"methods": ("lfe-ridge",), "scope": "uniform", "start_epochs": 1, "width": 0.2}
    (cut,) = of(followed("linear-filter-ensembles", tmp_path, **settings), "")
    for point in cut.rounds:
        shares = [point.widths[name] / dense for name, dense in cut.dense_widths.items()]
        assert max(shares) - min(shares) < 0.05, "but for rounding"
    assert cut.arm.method == "lfe-ridge"
    forward = 32 * cut.dense_macs
    neurons = sum(cut.dense_widths.values())
    assert cut.spent.scoring < 2 * 2 * neurons * forward, "fewer than two masks a channel in each of the two rounds"


@pytest.mark.parametrize("scope", ["global", "uniform", "knapsack"])
def test_the_scope_reaches_every_cut(scope: str) -> None:
    settings = LinearFilterEnsembles(**(TINY | SMALL), scope=scope)
    recipe = Recipe(settings)
    material, _ = recipe.look(settings)
    cuts = [s.config for c in recipe.chains(Kit(settings, material), {}) for s in c.stages if type(s.config) is Prune]
    assert len(cuts) >= 2 * 2, "two methods, two rounds"
    assert {config.scope for config in cuts} == {scope}


def test_the_scope_came_later() -> None:
    assert "scope" not in plain(LinearFilterEnsembles())
    assert LinearFilterEnsembles(scope="knapsack").identity != LinearFilterEnsembles().identity
