"""Schedules: shares that only fall, end at the final one, and follow the papers' formulas."""

import itertools
import math

import pytest

from torchbonsai.core.errors import ConfigError
from torchbonsai.pruning.schedules import Gradual, Interleaved, Iterative, OneCycle, OneShot, Schedule

SCHEDULES = {
    "one-shot": OneShot(at=7),
    "iterative": Iterative(cuts=5, every=3, start=4),
    "interleaved": Interleaved(every=4, share=0.2),
    "gradual": Gradual(begin=5, end=50, every=7),
    "one-cycle": OneCycle(begin=5, end=50, every=7),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("final", [0.07, 0.5, 0.999, 1.0])
def test_shares_fall_to_the_final_one_and_stop_there(name, final):
    schedule = SCHEDULES[name]
    assert isinstance(schedule, Schedule)
    shares = [s for step in range(1, 200) if (s := schedule.keep(step, final)) is not None]
    assert all(a >= b for a, b in zip([1.0, *shares], shares, strict=False))
    if name != "interleaved" or final < 1:
        assert shares[-1] == final
    assert all(s >= final for s in shares)


def test_gradual_is_the_cubic_of_zhu_and_gupta():
    schedule = Gradual(begin=100, end=1100, every=250)
    for step in (350, 600, 850, 1100):
        removed = 0.8 + (0 - 0.8) * (1 - (step - 100) / 1000) ** 3
        assert math.isclose(1 - schedule.keep(step, 0.2), removed, rel_tol=1e-9)
    assert schedule.keep(100, 0.2) is None
    assert schedule.keep(351, 0.2) is None


def test_the_end_of_a_span_is_reached_though_the_steps_do_not_divide_it():
    assert Gradual(begin=0, end=10, every=4).keep(10, 0.25) == 0.25
    assert OneCycle(begin=0, end=10, every=4).keep(10, 0.25) == 0.25


def test_one_cycle_is_slow_fast_slow():
    schedule = OneCycle(begin=0, end=100, every=1)
    removed = [1 - schedule.keep(step, 0.0001) for step in range(1, 101)]
    speeds = [b - a for a, b in itertools.pairwise(removed)]
    peak = speeds.index(max(speeds))
    assert 20 < peak < 60
    assert speeds[0] < max(speeds) / 5
    assert speeds[-1] < max(speeds) / 100


@pytest.mark.parametrize(
    "make",
    [
        lambda: OneShot(at=0),
        lambda: Iterative(cuts=0, every=1),
        lambda: Iterative(cuts=2, every=1.5),
        lambda: Interleaved(every=1, share=1.0),
        lambda: Gradual(begin=5, end=5, every=1),
        lambda: OneCycle(begin=-1, end=5, every=1),
        lambda: OneCycle(begin=0, end=5, every=1, alpha=0),
    ],
)
def test_what_makes_no_schedule_is_refused(make):
    with pytest.raises(ConfigError, match="must"):
        make()


def test_a_one_cycle_of_any_steepness_has_its_shares():
    for alpha, beta in ((14.0, 900.0), (800.0, 5.0), (14.0, -900.0)):
        shares = [OneCycle(0, 100, 10, alpha=alpha, beta=beta).keep(step, 0.2) for step in range(10, 101, 10)]
        assert all(0.2 <= b <= a <= 1 for a, b in itertools.pairwise(shares))
        assert shares[-1] == 0.2
