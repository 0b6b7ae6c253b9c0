"""One control of uniform width for arms of one size, one for each size where they differ."""

from __future__ import annotations

from dataclasses import replace

from tiny_recipes import made_up

from torchbonsai.core.config import plain
from torchbonsai.study.recipes.sizes import Group, groups
from torchbonsai.study.record import Arm
from torchbonsai.study.table import rows


def test_arms_share_a_control_that_are_within_two_percent_in_every_seed() -> None:
    alike = {"untrained l1": {0: 0.50, 1: 0.40}, "trained l1": {0: 0.495, 1: 0.407}}
    assert [g.arms for g in groups(alike)] == [("untrained l1", "trained l1")]
    in_one_seed = {**alike, "trained l2": {0: 0.50, 1: 0.42}}
    found = groups(in_one_seed)
    assert [g.arms for g in found] == [("untrained l1", "trained l1"), ("trained l2",)]
    assert found[1].share == {0: 0.50, 1: 0.42}


def test_a_control_that_is_there_is_taken_again() -> None:
    known = [Group({0: 0.5}, ("untrained l1",)), Group({0: 0.3}, ("trained l1",))]
    found = groups({"untrained l1": {0: 0.495}, "trained l1": {0: 0.4}}, known)
    assert found == [Group({0: 0.5}, ("untrained l1",)), Group({0: 0.4}, ("trained l1",))]


def test_every_arm_is_compared_with_the_control_of_its_size() -> None:
    one = made_up("untrained", 0, [(8, 0.7)])
    untrained, trained = replace(one, test_accuracy=0.8), made_up("trained", 0, [(4, 0.7)])
    chance = replace(untrained, arm=replace(untrained.arm, control="random-widths"))
    shape = Arm("untrained", "l2", "reinitialised", "4x", "equal-epochs", shape_of="trained")
    anew = replace(trained, arm=shape, test_accuracy=0.6)
    control = Arm("untrained", "", "uniform-new", "4x", "equal-epochs")
    large, small = (
        replace(one, arm=replace(control, fits=(f"{start} l2",)), test_accuracy=accuracy)
        for start, accuracy in (("untrained", 0.75), ("trained", 0.45))
    )
    found = rows([untrained, trained, chance, anew, large, small])
    gaps = [None if r.vs_uniform is None else round(r.vs_uniform.mean, 9) for r in found]
    assert gaps == [0.05, 0.05, 0.05, 0.15, None, None]
    assert large.arm.name == "uniform width, new weights, size of untrained l2"


def test_a_last_shape_of_all_starts_is_compared_with_the_control_of_its_method() -> None:
    shape = Arm("untrained", "l2", "reinitialised", "4x", "equal-epochs")
    anew = replace(made_up("untrained", 0, [(4, 0.7)]), arm=shape)
    control = Arm("untrained", "", "uniform-new", "4x", "equal-epochs")
    l1, l2 = (
        replace(anew, arm=replace(control, fits=(f"untrained {m}", f"trained {m}")), test_accuracy=accuracy)
        for m, accuracy in (("l1", 0.1), ("l2", 0.4))
    )
    (found, *_) = rows([anew, l1, l2])
    assert found.vs_uniform is not None
    assert round(found.vs_uniform.mean, 9) == 0.1


def test_where_one_will_do_the_arm_is_what_it_was() -> None:
    assert "fits" not in plain(Arm("untrained", "", "uniform-new", "4x", "equal-epochs"))


def test_who_is_alike_to_the_first_alone_is_of_another_group() -> None:
    found = groups({"a": {0: 0.5}, "b": {0: 0.491}, "c": {0: 0.509}})
    assert [g.arms for g in found] == [("a", "b"), ("c",)]
