"""Linear filter ensembles as a recipe: held-out images, rounds to the budget, a fully connected network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import pytest
import torch
from tiny_recipes import TINY, arms, followed, made_up, of

import torchbonsai as tb
from torchbonsai.core.config import plain
from torchbonsai.pruning.prune import PruneResult
from torchbonsai.study.about import read_study
from torchbonsai.study.recipes.kit import Kit
from torchbonsai.study.recipes.linear_filter_ensembles import LinearFilterEnsembles, Recipe
from torchbonsai.study.record import RunRecord
from torchbonsai.study.stages.prune import Prune, scored

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


def test_where_sampling_may_stop_early_the_record_has_how_often_it_was_settled(tmp_path: Path) -> None:
    settings = SMALL | {"methods": ("lfe-settled",), "scope": "uniform", "start_epochs": 1}
    (cut,) = of(followed("linear-filter-ensembles", tmp_path, **settings), "")
    assert len(cut.scored) == 2, "once a round"
    for told in cut.scored:
        assert told["layers"] == len(cut.dense_widths)
        assert 0 <= told["settled"] <= told["layers"]
        assert 0 <= told["doubt"] < 0.5
        assert told["settled"] < told["layers"] or told["doubt"] <= 0.05, "the cut that was asked for is the one made"
    settled, layers = (sum(told[what] for told in cut.scored) for what in ("settled", "layers"))
    (sentence,) = (s for s in read_study(tmp_path).about.sentences if "settled, at" in s)
    assert f"in {settled} of {layers} layers' samplings" in sentence


def result_of(widths: dict[str, int], cut: float | None) -> PruneResult:
    """An additive network's effects, of 4 channels each, and a cut to given widths."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(3)))
    inputs = torch.randn(8, 4)
    criterion = tb.criteria.LinearFilterEnsembles(cut=cut)
    batches = [(inputs, torch.arange(8) % 4)]
    return tb.prune(model, inputs, budget=tb.Budget(widths=widths), criterion=criterion, batches=batches)


def test_the_doubt_is_that_at_the_cut_that_was_made() -> None:
    """Layer 0: effects 0, 1, 10, 11 with errors of 1, cut between 0 and 1 (half a deviation from both); 1: nothing."""
    result = result_of({"0": 3}, 0.5)
    fits = result.details["linear_fits"]
    effects, errors = torch.tensor([0.0, 1, 10, 11]).double(), torch.ones(4).double()
    fits["0"] = replace(fits["0"], effects=effects, standard_errors=errors, settled=True)
    fits["1"] = replace(fits["1"], effects=effects, standard_errors=errors, settled=False)
    told = scored(result)
    assert (told["layers"], told["settled"], told["channels"]) == (2, 1, 8)
    assert told["doubt"] == pytest.approx(2 * NormalDist().cdf(-0.5) / 8)
    assert not {"layers", "settled", "doubt"} & scored(result_of({"0": 3}, None)).keys()


def test_masks_over_all_layers_at_once_are_counted_once() -> None:
    torch.manual_seed(0)
    model, inputs = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(3))), torch.randn(8, 4)
    batches = [(inputs, torch.arange(8) % 4)]
    for drawn, fits in (("layer", 2), ("global", 1)):
        criterion = tb.criteria.LinearFilterEnsembles(drawn=drawn)
        result = tb.prune(model, inputs, budget=tb.Budget(channels=0.5), criterion=criterion, batches=batches)
        one = result.details["linear_fits"]["0"].masks
        assert scored(result)["masks"] == result.details["forward_passes"] == fits * one


def test_what_did_not_settle_is_told() -> None:
    settings = LinearFilterEnsembles(**(TINY | SMALL | {"methods": ("l2",)}))
    record, dense = made_up("trained", 3, [(9, 0.5)]), made_up("trained", 3, [(10, 0.6)], "dense")

    def said(*rounds: dict[str, float]) -> list[str]:
        return [s for s in Recipe(settings).sentences([replace(record, scored=rounds), dense]) if "settled, at" in s]

    sure = {"channels": 30, "masks": 50, "layers": 10, "settled": 10, "doubt": 0.01}
    open_end = {"channels": 10, "masks": 40, "layers": 9, "settled": 7, "doubt": 0.05}
    (all_of_them,), (some,) = said(sure), said(sure, open_end)
    assert "in 10 of 10 layers' samplings. By the errors over masks 1.0% of" in all_of_them
    assert "in 17 of 19 layers' samplings; in the other 2 the masks ran out first. By" in some
    assert "errors over masks 2.0% of" in some, "a mean over channels, not over rounds"
    assert said({"channels": 30, "masks": 120}) == []


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
