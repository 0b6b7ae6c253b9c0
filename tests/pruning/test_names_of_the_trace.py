"""What is asked for by name is asked of the groups that `trace` shows, and a name with brackets is a name."""

import pytest
import torch

import torchbonsai as tb
from torchbonsai.models import ModelConfig, build
from torchbonsai.pruning.prune import _untold
from torchbonsai.selection.widths import by_group, still_named
from torchbonsai.surgery import repair


def test_floors_by_name_are_those_of_groups_that_a_trial_cut_ties(monkeypatch: pytest.MonkeyPatch) -> None:
    """resnet20 at a quarter of its width, not repaired: the first graph has streams apart that trial cuts tie."""
    monkeypatch.setattr(repair, "_MOST_ALIKE", 1)
    model, image = build(ModelConfig("resnet20", width=0.25), seed=0), torch.zeros(1, 3, 32, 32)
    groups = {g.name: g.size for g in tb.trace(model, image).groups}
    assert groups["conv1"] == 2, "tied by twos; where it is not, this test shows nothing"
    floors = {name: -(-3 * size // 5) for name, size in groups.items()}
    result = tb.prune(model, image, budget=tb.Budget(channels=0.75), min_channels=floors, verify=False)
    assert {g.name: g.size for g in result.graph.groups} == groups
    kept = {name: int(mask.sum()) for name, mask in result.selection.items()}
    assert all(kept[name] >= floor for name, floor in floors.items())


def test_a_group_that_is_named_after_a_part_of_a_weight_can_be_named() -> None:
    model, image = build(ModelConfig("shufflenet_small"), seed=0), torch.zeros(1, 3, 32, 32)
    graph = tb.trace(model, image)
    (part, *_) = [g.name for g in graph.groups if "[" in g.name]
    numbers = by_group(graph, {part: 3}, 1, "min_channels")
    assert [n for g, n in zip(graph.groups, numbers, strict=True) if g.name == part] == [3]
    assert sum(numbers) == len(graph.groups) + 2


def test_a_floor_whose_group_a_cut_ties_to_others_is_told() -> None:
    model, image = build(ModelConfig("resnet20", width=0.25), seed=0), torch.zeros(1, 3, 32, 32)
    graph = tb.trace(model, image)
    given = {"min_channels": {"conv1": 1, "weight[0:4]": 2}, "round_to": 1}
    left = {name: still_named(graph, numbers) for name, numbers in given.items()}
    assert left == {"min_channels": {"conv1": 1}, "round_to": 1}
    assert _untold(given, left) == ["min_channels of weight[0:4] does not hold: the proof of the cut tied it to others"]
    assert _untold(given, given) == []
