"""Network trimming: the published arithmetic, the rule, and the whole recipe on a few images."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_recipes import TINY, arms, followed, of

import torchbonsai as tb
from torchbonsai.core.config import plain
from torchbonsai.data.load import DataConfig
from torchbonsai.models.vgg import vgg
from torchbonsai.report.page import page
from torchbonsai.study.about import read_study
from torchbonsai.study.numerics import Numerics
from torchbonsai.study.recipes import RECIPES, follow
from torchbonsai.study.recipes.network_trimming import VGG16, NetworkTrimming
from torchbonsai.study.record import RunRecord
from torchbonsai.study.stages.images import Images
from torchbonsai.study.stages.outliers import Given, outlying
from torchbonsai.study.stages.prune import Trim
from torchbonsai.study.table import counted

SMALL = {"start_epochs": 2, "rounds": 2, "round_epochs": 1}


def test_the_published_schedule_of_vgg16() -> None:
    """Each step is a real cut of the network that the one before left; parameters on the meta device have no values."""
    totals = (138_357_544, 116_092_461, 95_472_287, 80_826_839, 70_731_673, 60_646_115, 53_365_677)
    listed = ("1.00", "1.19", "1.45", "1.71", "1.96", "2.28", "2.59")
    with torch.device("meta"):
        model: torch.nn.Module = vgg((3, 224, 224), 1000, depth=16, batch_norm=False, head="4096")
        image = torch.zeros(1, 3, 224, 224)
    for (conv, hidden), total, compression in zip(VGG16, totals, listed, strict=True):
        budget = tb.Budget(widths={"features.28": conv, "classifier.0": hidden})
        result = tb.prune(model, image, budget=budget, criterion=tb.criteria.Random(), verify=False)
        model = result.model
        assert sum(p.numel() for p in model.parameters()) == result.cost.after.params == total
        assert f"{totals[0] / total:.2f}" == compression


def test_what_is_zero_more_than_a_deviation_above_the_mean_goes() -> None:
    apoz = {"rare": torch.tensor([0.1, 0.1, 0.2, 0.1]), "often": torch.tensor([0.9, 0.9, 0.9, 0.5, 1.0])}
    scores = {name: 1 - values for name, values in apoz.items()}
    one = dict.fromkeys(scores, 1)
    assert outlying(scores, 1.0, None, one) == {"rare": 3, "often": 4}  # 0.84 + 0.174 is capped at 1.0
    assert outlying(scores, 2.0, None, one) == {"often": 4}
    assert outlying(scores, 0.5, None, one) == {"rare": 3, "often": 4}
    assert outlying(scores, 0.5, 1, one) == {"often": 4}, "the layer with the highest mean APoZ"
    assert outlying(scores, 0.0, None, dict.fromkeys(scores, 4)) == {"often": 4}, "the floor"
    assert outlying(scores, 0.5, 1, {"rare": 1, "often": 5}) == {"rare": 3}, "of those that can lose a channel"


def test_modules_that_are_not_there_are_an_error_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(tb.ConfigError, match="near matches"):
        followed("network-trimming", tmp_path, only=("cnov2",), **SMALL)
    assert not list(tmp_path.rglob("record.json"))


def test_the_rule_rounds_what_it_cuts_down_to_a_multiple_as_a_budget_of_outliers_does() -> None:
    """In networks of two groups, as `tb.prune` does it with the same scores."""
    for round_to, floor, deviations in itertools.product((1, 3, 4, 8), (1, 2, 6), (0.0, 0.5, 1.0, 3.0)):
        model = torch.nn.Sequential(*(torch.nn.Linear(a, b) for a, b in ((4, 23), (23, 10), (10, 2))))
        generator = torch.Generator().manual_seed(round_to)
        scores = {"0": torch.rand(23, generator=generator), "1": torch.rand(10, generator=generator)}
        found = outlying(scores, deviations, None, dict.fromkeys(scores, floor), round_to)
        cut = tb.prune(
            model, torch.zeros(1, 4), budget=tb.Budget(outliers=deviations), criterion=Given(scores),
            round_to=round_to, min_channels=floor,
        )  # fmt: skip
        narrower = {name: int(mask.sum()) for name, mask in cut.selection.items() if not mask.all()}
        assert found == narrower
        assert all(width % round_to == 0 or width == len(scores[name]) for name, width in found.items())


def test_round_to_reaches_the_cut(tmp_path: Path) -> None:
    settings = SMALL | {"rounds": 1, "start_epochs": 1, "round_to": 8, "equal_compute": False}
    (trimmed,) = of(followed("network-trimming", tmp_path, **settings), "")
    for name in ("conv2", "fc1"):
        assert trimmed.widths[name] % 8 == 0
        assert 0 < trimmed.widths[name] < trimmed.dense_widths[name]
    assert trimmed.dense_widths["conv2"] % 8 or trimmed.dense_widths["fc1"] % 8, "no multiples of their own"
    assert "round_to" not in plain(Trim(Images(DataConfig("x"), ""), 0, Numerics())), "what was cut before is found"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[RunRecord]]:
    out = tmp_path_factory.mktemp("trimming")
    return out, followed("network-trimming", out, **SMALL)


def test_all_arms_and_controls_under_both_fairnesses(study: tuple[Path, list[RunRecord]]) -> None:
    _, records = study
    cut = {("trained", "apoz", ""), ("trained", "apoz", "random-widths")}
    new = {("untrained", "apoz", "reinitialised"), ("untrained", "", "uniform-new")}
    assert arms(records, "equal-epochs") == cut | new | {("trained", "", "dense")}
    assert arms(records, "equal-compute") == cut | new | {("trained", "", "dense")}


def test_under_equal_epochs_all_train_as_long(study: tuple[Path, list[RunRecord]]) -> None:
    _, records = study
    for r in (r for r in records if r.arm.fairness == "equal-epochs"):
        assert (r.epochs, r.samples) == (2.0, 2 * 96)
        whole = 3 * r.dense_macs * 2 * 96
        assert r.spent.start == (whole if r.arm.start == "trained" else 0)
        by_round = [r.rounds[0].macs, r.rounds[-1].macs] if len(r.rounds) == 2 else [r.macs, r.macs]
        assert r.spent.training == sum(3 * macs * 96 for macs in by_round)
        scored = [r.dense_macs, r.rounds[0].macs] if r.arm.control == "" else []
        assert r.spent.scoring == sum(macs * 64 for macs in scored)


def test_under_equal_compute_all_spend_the_costliest_total(study: tuple[Path, list[RunRecord]]) -> None:
    _, records = study
    total = max(r.spent.total for r in records if r.arm.fairness == "equal-epochs" and r.arm.control != "dense")
    for r in (r for r in records if r.arm.fairness == "equal-compute"):
        assert r.total_macs_allowed == total
        assert total - 3 * r.macs * 32 < counted(r) <= total


def test_rounds_trim_the_paper_s_layers_and_random_channels_follow(study: tuple[Path, list[RunRecord]]) -> None:
    _, records = study
    (trimmed,), (chance,) = of(records, ""), of(records, "random-widths")
    first, second = trimmed.rounds
    for name in ("conv2", "fc1"):
        assert second.widths[name] < first.widths[name] < trimmed.dense_widths[name]
    assert trimmed.widths["conv1"] == trimmed.dense_widths["conv1"] == 20
    assert [r.widths for r in chance.rounds] == [r.widths for r in trimmed.rounds]
    assert first.after_cut is not None
    assert first.recalibrated is None, "LeNet has no norm"
    assert trimmed.verification["exact"]
    assert [r.after_cut for r in of(records, "dense")[0].rounds] == [None, None]


def test_new_weights_at_the_same_shape_say_how_they_were_made(study: tuple[Path, list[RunRecord]]) -> None:
    _, records = study
    (anew,), (trimmed,) = of(records, "reinitialised"), of(records, "")
    assert anew.widths == trimmed.widths
    assert anew.remade == f"factory at widths 20, {trimmed.widths['conv2']}, {trimmed.widths['fc1']}"


def _told(records: list[RunRecord], out: Path) -> None:
    """Before every cut, by layer; the sentence is of the first and the last."""
    (trimmed,) = of(records, "")
    rounds = [s["apoz"] for s in trimmed.scored]
    assert len(rounds) == 2
    for layers in rounds:
        assert list(layers) == ["conv2", "fc1"], "what is trimmed"
        for apoz in layers.values():
            assert 0 <= apoz["p10"] <= apoz["p50"] <= apoz["p90"] <= 1
            assert 0 < apoz["mean"] < 1
    told = ", ".join(f"{n} {rounds[0][n]['mean']:.2f} / {rounds[-1][n]['mean']:.2f}" for n in ("conv2", "fc1"))
    (sentence,) = (s for s in read_study(out).about.sentences if s.startswith("Mean APoZ by layer under equal-epochs"))
    assert f"before the last: {told} (means over 1 seed)." in sentence


def test_apoz_before_every_cut_is_in_the_record_and_told(study: tuple[Path, list[RunRecord]]) -> None:
    out, records = study
    _told(records, out)
    assert not any(r.scored for r in records if r.arm.control)


def test_the_uniform_width_has_as_many_parameters(study: tuple[Path, list[RunRecord]]) -> None:
    _, records = study
    for fairness in ("equal-epochs", "equal-compute"):
        (uniform,), (trimmed,) = of(records, "uniform-new", fairness), of(records, "", fairness)
        assert 0.95 * trimmed.params <= uniform.params <= trimmed.params
        assert uniform.macs < 0.9 * trimmed.macs, "matched in MACs it would have more parameters"


def test_the_small_network_loads_and_the_report_tells_the_method(study: tuple[Path, list[RunRecord]]) -> None:
    out, records = study
    found = read_study(out)
    assert list(found.records) == records
    (choice,) = found.about.choices
    largest = max(r.params for r in records if r.arm.control == "")
    small = [r for r in records if r.params <= 1.02 * largest]
    assert choice.val_accuracy == max(r.val_accuracy for r in small)
    assert (choice.unit, choice.runs + choice.larger) == ("params", sum(r.arm.control != "dense" for r in records))
    assert sum(p.numel() for p in tb.load(out / choice.folder).parameters()) == choice.params
    text = page(found)
    assert "1607.03250" in text
    assert "Round after round" in text
    assert "times fewer" in found.about.sentences[0]


def test_broken_off_and_gone_on_ends_with_the_same_records(study: tuple[Path, list[RunRecord]], tmp_path: Path) -> None:
    _, records = study
    recipe = RECIPES["network-trimming"]
    seen = 0

    def stop(event: object) -> None:
        nonlocal seen
        seen += 1
        if seen == 25:
            raise KeyboardInterrupt

    config = NetworkTrimming(**(TINY | SMALL), out=str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        follow(recipe(config), config, on_event=stop)
    assert not (tmp_path / "study.json").exists()
    again = follow(recipe(config), config)
    assert [r.lasting() for r in again] == [r.lasting() for r in records]


def test_a_budget_of_parameters_instead_of_outliers(tmp_path: Path) -> None:
    records = followed("network-trimming", tmp_path, **SMALL | {"budget": "4x", "start_epochs": 1})
    (trimmed,) = of(records, "")
    first, second = trimmed.rounds
    assert first.params <= 0.5 * trimmed.dense_params
    assert 0.24 * trimmed.dense_params < second.params <= 0.25 * trimmed.dense_params
    assert trimmed.arm.budget == "4x"
    _told(records, tmp_path)


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(tb.ConfigError, match="rounds"):
        NetworkTrimming(rounds=0)
    with pytest.raises(tb.ConfigError, match="budget"):
        NetworkTrimming(budget="400%")
    for rule in ({"layers": 2}, {"deviations": 1.0}, {"layers": 1, "deviations": 2}):
        with pytest.raises(tb.ConfigError, match="deviations and layers are of the outlier rule"):
            NetworkTrimming(budget="2x", **rule)
    with pytest.raises(tb.ConfigError, match="layers must be at least 1"):
        NetworkTrimming(layers=0)
    for named in ({}, {"model": "vgg16_bn", "only": ("features.0",)}):
        with pytest.raises(tb.ConfigError, match="layers chooses among all modules"):
            NetworkTrimming(layers=1, **named)  # type: ignore[arg-type]
    assert NetworkTrimming(model="vgg16_bn", layers=1).layers == 1


def test_the_rule_s_usual_numbers_hold_without_a_budget() -> None:
    usual = NetworkTrimming()
    assert (usual.deviations, usual.layers) == (1.0, 2)
    assert usual.identity == NetworkTrimming(deviations=1, layers=2).identity
    assert replace(usual, lr=0.1).layers == 2
    asked = NetworkTrimming(budget="2x", only=("conv2",))
    assert replace(asked, lr=0.1).budget == "2x", "checked again, it still stands"
