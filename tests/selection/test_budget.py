"""Budgets: what is accepted, and what a number means."""

import math
from fractions import Fraction

import numpy as np
import pytest

from torchbonsai.core.errors import ConfigError
from torchbonsai.selection.budget import Budget, ceiling, nearest, share


@pytest.mark.parametrize("name", ["macs", "params", "channels"])
@pytest.mark.parametrize("value", [0, 0.0, 1.5, -1, -0.5, True, False, math.nan, math.inf, "0.5", 2.0])
def test_bad_amounts(name, value):
    with pytest.raises(ConfigError, match=name):
        Budget(**{name: value})


@pytest.mark.parametrize("widths", [{"a": 0}, {"a": 1.5}, {"a": True}, {1: 3}, {"a": "3"}, ["a"], {"a": -1}], ids=repr)
def test_bad_widths(widths):
    with pytest.raises(ConfigError, match="widths"):
        Budget(widths=widths)


def test_empty_budget():
    with pytest.raises(ConfigError, match="at least one"):
        Budget()
    with pytest.raises(ConfigError, match="at least one"):
        Budget(widths={})


def test_unknown_option_is_not_accepted():
    with pytest.raises(TypeError):
        Budget(flops=0.5)


def test_numpy_numbers_become_plain():
    budget = Budget(macs=np.float32(0.5), params=np.int64(7), widths={"a": np.int64(3)})
    assert (type(budget.macs), type(budget.params), type(budget.widths["a"])) == (float, int, int)


def test_shares_are_decimal():
    assert ceiling(0.29, 100) == 29  # 0.29 * 100 is 28.999999999999996 in float64
    assert ceiling(1.0, 7) == 7
    assert ceiling(12, 7) == 12
    assert share(0.1) == Fraction(1, 10)


def test_nearest_rounds_half_up():
    assert [nearest(Fraction(1, 2), n) for n in range(1, 7)] == [1, 1, 2, 2, 3, 3]
