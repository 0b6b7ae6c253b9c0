"""The bonsai hypothesis: both starts alike, several measures, what is left at equal accuracy."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from tiny_recipes import arms, followed, of

import torchbonsai as tb
from torchbonsai.study.about import read_study
from torchbonsai.study.recipes.bonsai_hypothesis import BonsaiHypothesis
from torchbonsai.study.recipes.equal import Removed, by_seed, common_levels, difference, removed
from torchbonsai.study.recipes.words import at_tolerances
from torchbonsai.study.record import Arm, Round, RunRecord
from torchbonsai.study.table import counted

SMALL = {
    "model": "bonsai_small",
    "augment": (),
    "limit_train": 64,
    "start_epochs": 2,
    "rounds": 2,
    "round_epochs": 1,
    "methods": ("l2",),
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[RunRecord]]:
    out = tmp_path_factory.mktemp("bonsai")
    return out, followed("bonsai-hypothesis", out, **SMALL)


def test_both_starts_every_measure_and_their_controls(study: tuple[Path, list[RunRecord]]) -> None:
    _, records = study
    starts, methods = ("untrained", "trained"), ("l2",)
    cut = {(s, m, control) for s in starts for m in methods for control in ("", "random-widths")}
    new = {("untrained", m, "reinitialised") for m in methods} | {("untrained", "", "uniform-new")}
    assert arms(records, "equal-epochs") == cut | new | {(s, "", "dense") for s in starts}
    assert arms(records, "equal-compute") == cut | new | {("untrained", "", "dense")}
    shapes = [r.arm.shape_of for r in of(records, "reinitialised")]
    assert sorted(shapes) == ["trained", "untrained"], "a shape of each start and measure, told apart"


def test_under_equal_epochs_both_starts_train_in_the_same_rounds(study: tuple[Path, list[RunRecord]]) -> None:
    _, records = study
    for r in (r for r in records if r.arm.fairness == "equal-epochs"):
        assert (r.epochs, r.samples) == (3.0, 3 * 64)
        assert (r.spent.start > 0) == (r.arm.start == "trained")
    for r in of(records, "") + of(records, "random-widths"):
        assert [p.epochs for p in r.rounds] == [1.0, 2.0, 3.0]
        assert r.rounds[0].macs == r.dense_macs
        assert r.rounds[0].after_cut is r.rounds[0].recalibrated is None
        assert all(p.recalibrated is not None for p in r.rounds[1:])
        dense = sum(r.dense_widths.values())
        assert [p.channels for p in r.rounds] == [dense, dense // 2, dense // 4]


def test_under_equal_compute_the_untrained_start_has_longer_rounds(study: tuple[Path, list[RunRecord]]) -> None:
    _, records = study
    total = max(r.spent.total for r in records if r.arm.fairness == "equal-epochs" and r.arm.control != "dense")
    for r in (r for r in records if r.arm.fairness == "equal-compute"):
        assert r.total_macs_allowed == total
        assert total - 3 * r.macs * 32 < counted(r) <= total, r.arm
        if (r.arm.start, r.arm.control) == ("untrained", ""):
            lengths = [b.epochs - a.epochs for a, b in pairwise(r.rounds)]
            assert min(lengths) >= 1.5, "all of them, not the last alone"


def test_the_finding_is_told_in_total_and_by_layer(study: tuple[Path, list[RunRecord]]) -> None:
    out, _ = study
    sentences = read_study(out).about.sentences
    assert len(sentences) == 3 * 2, "three a measure and fairness"
    assert "untrained minus trained" in sentences[0]
    assert "n = 1 < 3" in sentences[0], "no interval of one seed"
    assert "channels lost with other tolerances" in sentences[1]
    assert "channels left by layer" in sentences[2]


def record(start: str, seed: int, points: list[tuple[int, float]], control: str = "") -> RunRecord:
    """A record of one layer of ten channels; points: (channels, validation accuracy)."""
    rounds = tuple(Round(float(k), 10 * c, 100 * c, c, {"conv": c}, None, v) for k, (c, v) in enumerate(points))
    more: dict[str, dict[str, str]] = {key: {} for key in ("spent", "stages", "verification", "versions")}
    arm = Arm(start, "" if control else "l2", control, "4x", "equal-epochs")
    fixed = {"dense_macs": 100, "dense_params": 1000, "budget_macs": None, "dense_widths": {"conv": 10}, "epochs": 1}
    last = {"macs": rounds[-1].macs, "params": rounds[-1].params, "widths": rounds[-1].widths}
    said = {"samples": 1, "total_macs_allowed": None, "remade": "", "study": ""}
    return RunRecord(arm, seed, points[-1][1], 0.5, **last, **fixed, **more, **said, rounds=rounds)  # type: ignore[arg-type]


def test_equal_accuracy_is_the_last_round_at_the_level_of_the_worse_dense_network() -> None:
    dense = [record("untrained", 0, [(10, 0.80)], "dense"), record("trained", 0, [(10, 0.90)], "dense")]
    levels = common_levels(dense, 0.01)
    assert levels == {0: pytest.approx(0.79)}
    untrained = record("untrained", 0, [(10, 0.70), (8, 0.80), (5, 0.79), (2, 0.60)])
    trained = record("trained", 0, [(10, 0.90), (8, 0.88), (5, 0.70), (2, 0.80)])
    assert removed(untrained, levels[0]).channels == 0.5
    assert removed(trained, levels[0]).channels == 0.8, "accuracy may come back"
    never = removed(record("untrained", 0, [(10, 0.5), (5, 0.5)]), levels[0])
    assert (never.point, never.channels) == (None, 0.0)
    left, right = by_seed([untrained], levels), by_seed([trained], levels)
    assert difference(left, right, "channels").mean == pytest.approx(-0.3)


def test_what_is_lost_is_told_for_several_tolerances() -> None:
    starts = {"untrained": [(10, 0.6), (8, 0.76), (5, 0.74)], "trained": [(10, 0.9), (8, 0.80), (5, 0.78)]}

    def both(tolerance: float) -> tuple[dict[int, Removed], dict[int, Removed]]:
        left, right = (
            {s: removed(record(name, s, c), 0.8 - tolerance) for s in range(3)} for name, c in starts.items()
        )
        return left, right

    told = at_tolerances(both, "channels").split("; ")
    assert told[0] == "1 points 0% / 20% (-20 [none])", "only the trained one's second round is at 0.79 or above"
    assert told[1] == "2 points 0% / 50% (-50 [none])", "0.78 is reached by its third"
    assert told[2] == "5 points 20% / 50% (-30 [none])"
    assert told[3] == "10 points 50% / 50% (+0 [none])"


def test_settings_that_mean_nothing_are_refused() -> None:
    for settings, says in (
        ({"methods": ("l3",)}, "l3"),
        ({"tolerance": 1.0}, "tolerance"),
        ({"methods": ()}, "methods"),
    ):
        with pytest.raises(tb.ConfigError, match=says):
            BonsaiHypothesis(**settings)  # type: ignore[arg-type]
