"""The bonsai hypothesis: both starts alike, several measures, what is left at equal accuracy."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from tiny_recipes import arms, followed, made_up, of

import torchbonsai as tb
from torchbonsai.study.about import read_study
from torchbonsai.study.recipes.bonsai_hypothesis import BonsaiHypothesis, Recipe
from torchbonsai.study.recipes.equal import Removed, below, by_seed, difference, kept_by_layer, removed
from torchbonsai.study.recipes.words import Lost, at_tolerances, signs
from torchbonsai.study.record import RunRecord
from torchbonsai.study.table import counted, rows

SMALL = {
    "model": "bonsai_small",
    "batch_size": 16,
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
    assert arms(records, "equal-compute") == cut | new | {(s, "", "dense") for s in starts}
    shapes = [r.arm.shape_of for r in of(records, "reinitialised")]
    assert sorted(shapes) == ["trained", "untrained"], "a shape of each start and measure, told apart"


def test_a_uniform_width_of_each_start_s_size(study: tuple[Path, list[RunRecord]]) -> None:
    _, records = study
    for fairness in ("equal-epochs", "equal-compute"):
        uniform = of(records, "uniform-new", fairness)
        assert sorted(u.arm.fits for u in uniform) == [("trained l2",), ("untrained l2",)]
        for u in uniform:
            (own,) = of(records, "", fairness, start=u.arm.fits[0].split()[0])
            step = max((n + 1) / n for n in u.widths.values()) ** 2  # a channel more in all layers costs at most this
            assert u.macs <= own.macs < step * u.macs, "the largest that is no larger"
            gap = next(r.vs_uniform for r in rows(records) if r.arm == own.arm)
            assert gap is not None
            assert gap.mean == pytest.approx(own.test_accuracy - u.test_accuracy), "each beside its own"


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
        assert total - 3 * r.macs * 16 < counted(r) <= total, r.arm
        if (r.arm.start, r.arm.control) == ("untrained", ""):
            lengths = [b.epochs - a.epochs for a, b in pairwise(r.rounds)]
            assert min(lengths) >= 1.5, "all of them, not the last alone"


def test_the_finding_is_told_in_total_and_by_layer(study: tuple[Path, list[RunRecord]]) -> None:
    out, _ = study
    sentences = read_study(out).about.sentences
    assert len(sentences) == 6 * 2, "six a measure and fairness"
    for first, level in ((0, "at equal accuracy"), (2, "at an equal drop below its own dense network")):
        assert f"l2 under equal-epochs, {level} (validation" in sentences[first]
        assert "untrained minus trained" in sentences[first]
        assert "n = 1 < 3" in sentences[first], "no interval of one seed"
        assert f"{level}, channels lost with other tolerances" in sentences[first + 1]
    assert "channels left by layer" in sentences[4]
    assert "at no tolerance do the intervals of both measures exclude zero" in sentences[5].lower()


def test_two_levels_of_accuracy_may_differ_in_sign_and_both_are_told() -> None:
    """The trained start begins above the untrained one's level: it falls far below its own, and is above that still."""
    records = []
    for seed, left in enumerate((5, 5, 4)):
        records += [
            made_up("untrained", seed, [(10, 0.50), (10, 0.60), (10, 0.70)], "dense"),
            made_up("trained", seed, [(10, 0.80), (10, 0.85), (10, 0.90)], "dense"),
            made_up("untrained", seed, [(10, 0.50), (8, 0.60), (left, 0.70)]),
            made_up("trained", seed, [(10, 0.80), (8, 0.70), (3, 0.72)]),
        ]
    recipe = Recipe(BonsaiHypothesis(methods=("l2",), tolerance=0.03))
    equal, _, drop, by_tolerance, _, agreement = recipe.sentences(records)
    assert equal.startswith("l2 under equal-epochs, at equal accuracy (validation, at most 3 points below the worse")
    assert "the untrained start had lost 53% of the channels" in equal
    assert "the trained start 70% of the channels" in equal
    assert "untrained minus trained: -16.67 points [-31.01, -2.32]" in equal
    assert "at an equal drop below its own dense network (validation, at most 3 points below that network" in drop
    assert "untrained minus trained: +53.33 points [+38.99, +67.68]" in drop
    assert "10 points 53% / 0% (+53 [+39 to +68]); 15 points 53% / 20% (+33 [+19 to +48])" in by_tolerance
    assert "at equal accuracy: negative at 1, 2, 3, 5, 10, 15 points; at an equal drop" in agreement
    assert "own dense network: positive at 1, 2, 3, 5, 10, 15 points. Where those of both do, the two" in agreement
    assert agreement.endswith("the two measures have opposite signs at 1, 2, 3, 5, 10, 15 points.")


def test_layers_are_told_where_both_starts_lost_something() -> None:
    dense = [made_up(start, 0, [(10, 0.70), (10, 0.80)], "dense") for start in ("untrained", "trained")]
    cut = [made_up("untrained", 0, [(10, 0.70), (6, 0.76)]), made_up("trained", 0, [(10, 0.70), (4, 0.79)])]

    def layers(records: list[RunRecord]) -> str:
        (told,) = (s for s in Recipe(BonsaiHypothesis(methods=("l2",))).sentences(records) if "left by layer" in s)
        return told

    assert "(5 points), untrained / trained: conv 6 / 4 of 10." in layers([*dense, *cut])
    never = made_up("untrained", 0, [(10, 0.70), (6, 0.10)])
    assert "(1 points), untrained / trained: conv 10 / 4 of 10." in layers([*dense, never, cut[1]]), "as was asked"


def test_agreement_is_told_only_where_both_intervals_exclude_zero() -> None:
    """{tolerance: difference of every seed}; the arm on the right loses nothing."""

    def losing(by_tolerance: dict[float, tuple[float, ...]]) -> Lost:
        nothing = dict.fromkeys(range(3), Removed(None))
        return lambda t: ({s: Removed(None, lost) for s, lost in enumerate(by_tolerance[t])}, nothing)

    up, down, unsure, alike = (0.3, 0.3, 0.4), (-0.3, -0.3, -0.4), (-0.4, 0.1, 0.4), (0.2, 0.2, 0.2)
    first = losing({0.01: up, 0.02: up, 0.05: unsure, 0.1: alike})
    second = losing({0.01: up, 0.02: down, 0.05: up, 0.1: down})
    told = signs({"one": first, "other": second}, "channels", (0.1, 0.01, 0.05, 0.02))
    assert told == (
        "one: positive at 1, 2 points; other: positive at 1, 5 points and negative at 2, 10 points. Where those of "
        "both do, the two measures have the same sign at 1 points and opposite signs at 2 points."
    )
    told = signs({"one": losing({0.05: unsure}), "other": losing({0.05: up})}, "channels", (0.05,))
    assert told == (
        "one: at no tolerance; other: positive at 5 points. At no tolerance do the intervals of both measures exclude "
        "zero."
    )


def test_equal_accuracy_is_that_of_the_worse_dense_network_after_as_many_rounds() -> None:
    dense = [
        made_up("untrained", 0, [(10, 0.50), (10, 0.60), (10, 0.70)], "dense"),
        made_up("trained", 0, [(10, 0.80), (10, 0.65), (10, 0.90)], "dense"),
    ]
    levels = below(dense, 0.01)
    assert levels == {0: pytest.approx([0.49, 0.59, 0.69])}
    untrained = made_up("untrained", 0, [(10, 0.50), (8, 0.60), (5, 0.68)])
    trained = made_up("trained", 0, [(10, 0.90), (8, 0.40), (5, 0.69)])
    assert removed(untrained, levels[0]).channels == pytest.approx(0.2), "0.60 is enough in its round, 0.68 is not"
    assert removed(trained, levels[0]).channels == 0.5, "accuracy may come back"
    never = removed(made_up("untrained", 0, [(10, 0.4), (8, 0.4), (5, 0.4)]), levels[0])
    assert (never.point, never.channels) == (None, 0.0)
    left, right = by_seed([untrained], levels), by_seed([trained], levels)
    assert difference(left, right, "channels").mean == pytest.approx(-0.3)


def test_a_network_that_was_not_cut_has_lost_nothing_and_is_always_equal() -> None:
    """However little it was trained: the level is the same network's."""
    curve = [(10, 0.3), (10, 0.4), (10, 0.5)]
    found = removed(made_up("untrained", 0, curve), below([made_up("untrained", 0, curve, "dense")], 0.0)[0])
    assert found.point is not None
    assert found.channels == 0.0


def test_a_layer_that_a_round_does_not_name_is_no_layer_that_kept_all_its_channels() -> None:
    found = {s: Removed(made_up("untrained", s, [(6 + s, 0.5)]).rounds[0]) for s in (0, 1)} | {2: Removed(None)}
    assert kept_by_layer(found, {"conv": 10}) == {"conv": pytest.approx((6 + 7 + 10) / 3)}
    with pytest.raises(KeyError, match="fc"):
        kept_by_layer(found, {"conv": 10, "fc": 20})


def test_what_is_lost_is_told_for_several_tolerances() -> None:
    starts = {"untrained": [(10, 0.8), (8, 0.76), (5, 0.74)], "trained": [(10, 0.9), (8, 0.80), (5, 0.78)]}

    def both(tolerance: float) -> tuple[dict[int, Removed], dict[int, Removed]]:
        levels = [0.8 - tolerance] * 3
        left, right = ({s: removed(made_up(name, s, c), levels) for s in range(3)} for name, c in starts.items())
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
