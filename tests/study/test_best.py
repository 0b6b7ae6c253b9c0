"""What is handed over as small is no larger than what was cut."""

from __future__ import annotations

from made_up import record

from torchbonsai.study.best import best, candidates
from torchbonsai.study.record import Arm


def test_a_control_that_is_larger_than_every_method_s_network_is_no_candidate() -> None:
    """At one label a uniform width may have twice the parameters; within 2 % it may be handed over."""
    l1 = Arm("trained", "l1", "", "4-rounds", "equal-epochs")
    uniform = Arm("untrained", "", "uniform-new", "4-rounds", "equal-epochs")
    dense = Arm("trained", "", "dense", "4-rounds", "equal-compute")
    cut = [record(l1, 0, 0.7, params=1000), record(l1, 1, 0.6, params=900)]
    larger, alike = record(uniform, 0, 0.9, params=2000), record(uniform, 1, 0.8, params=1020)
    found, left_out = candidates([*cut, larger, alike, record(dense, 0, 0.99)], "4-rounds", "params")
    assert (found, left_out) == ([*cut, alike], 1)
    assert best(found) is alike
    assert candidates([*cut, larger, alike], "4-rounds", "macs") == ([*cut, larger, alike], 0)


def test_channels_are_counted_over_all_groups() -> None:
    l1 = Arm("trained", "l1", "", "4x", "equal-epochs")
    chance = Arm("trained", "l1", "random-widths", "4x", "equal-epochs")
    wide = record(chance, 0, 0.9, widths={"conv1": 4, "conv2": 22})
    cut = record(l1, 0, 0.7, widths={"conv1": 10, "conv2": 15})
    assert candidates([cut, wide], "4x", "channels") == ([cut], 1)


def test_a_network_of_a_width_search_is_never_handed_over() -> None:
    """It was trained to study widths, and the largest of them is no measure of what is small."""
    gates = Arm("untrained", "gates", "", "50%", "equal-epochs")
    searches = [Arm(start, "gates", "", "50%", "diversity of widths") for start in ("init 1", "checkpoint 33%")]
    cut = record(gates, 0, 0.7)
    found, left_out = candidates([cut, *(record(arm, 0, 0.9, macs=400_000) for arm in searches)], "50%", "macs")
    assert (found, left_out) == ([cut], 0)


def test_where_no_method_has_a_network_all_are_candidates() -> None:
    uniform = Arm("untrained", "", "uniform-new", "50%", "equal-epochs")
    found = [record(uniform, 0, 0.7), record(uniform, 1, 0.8, macs=900_000)]
    assert candidates(found, "50%", "macs") == (found, 0)
