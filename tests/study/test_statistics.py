"""Intervals against numbers worked out by hand and against scipy; Holm against its definition."""

from __future__ import annotations

import pytest
from scipy import stats

from torchbonsai.study.statistics import holm, paired, t_interval


def test_an_interval_by_hand() -> None:
    """1, 2, 3: mean 2, sd 1, t(0.975, 2) = 4.302653, half = 4.302653 / sqrt(3) = 2.484138."""
    interval = t_interval([1.0, 2.0, 3.0])
    assert (interval.n, interval.mean) == (3, 2.0)
    assert interval.half == pytest.approx(2.484138, abs=1e-6)
    assert interval.low == pytest.approx(-0.484138, abs=1e-6)
    assert interval.kind == "95% t-interval, n = 3 trainings"


def test_pairs_are_matched_by_seed() -> None:
    left, right = {0: 0.70, 1: 0.80, 2: 0.60, 7: 0.1}, {2: 0.55, 1: 0.73, 0: 0.69, 9: 0.9}
    interval = paired(left, right)
    expected = stats.ttest_rel([0.70, 0.80, 0.60], [0.69, 0.73, 0.55])
    assert interval.n == 3
    assert interval.p == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval()
    assert (interval.low, interval.high) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.7], [0.5, 0.5, 0.5]])
def test_no_interval_where_there_is_nothing_to_judge_by(values: list[float]) -> None:
    interval = t_interval(values)
    assert interval.mean == pytest.approx(sum(values) / len(values))
    assert (interval.low, interval.high, interval.p, interval.half) == (None, None, None, None)
    assert interval.kind.startswith("none")


def test_no_seed_in_common_is_an_error() -> None:
    with pytest.raises(ValueError, match="in common"):
        paired({0: 1.0}, {1: 1.0})


def test_holm_by_hand() -> None:
    """Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04, the last raised to 0.06."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
