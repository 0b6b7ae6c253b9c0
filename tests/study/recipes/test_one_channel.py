"""Layers that reach one channel, which the next trace does not count as a group: they keep their place in widths."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_recipes import followed, of
from torch import nn

import torchbonsai as tb
from torchbonsai.models.build import ModelConfig, build
from torchbonsai.pruning.rounds import by_group, frozen, held, places_of, widths_of
from torchbonsai.study.stages.network import Network, whole
from torchbonsai.surgery import repair

SHORT = {"model": "bonsai_small", "augment": (), "min_channels": 1, "round_epochs": 1, "limit_train": 32}
IMAGE = torch.zeros(1, 1, 14, 14)


def cut(network: Network, module: nn.Module, **widths: int) -> tuple[Network, nn.Module]:
    budget = tb.Budget(widths={name.replace("_", "."): width for name, width in widths.items()})
    result = tb.prune(module, IMAGE, budget=budget, criterion=tb.criteria.Random(seed=1))
    return Network.cut(network, result), result.model


def test_a_layer_of_one_channel_stays_among_the_widths_and_the_last_cut_is_counted() -> None:
    model = ModelConfig("bonsai_small", (1, 14, 14))
    module = build(model, seed=0)
    dense = whole(model, module, IMAGE)
    first, module = cut(dense, module, features_0=1, features_7=5)
    second, module = cut(first, module, features_10=3, features_7=2)
    assert [*first.widths.values()] == [1, 16, 5, 32]
    assert [*second.widths] == [*dense.widths]
    assert [*second.widths.values()] == [1, 16, 2, 3]
    assert second.dense_widths == dense.widths
    graph = tb.trace(module, IMAGE)
    assert "features.0" not in graph.by_name, "what makes it vanish; where it stays, this test shows nothing"
    atoms = held(second.places, second.cuts, graph)
    assert frozen(atoms) == 1
    asked = by_group(graph, atoms, {"features.0": 1, "features.3": 4, "features.7": 1, "features.10": 3})
    assert asked == {"features.3": 4, "features.7": 1, "features.10": 3}


def test_a_network_of_an_older_study_which_knows_first_positions_is_read() -> None:
    dense = whole(model := ModelConfig("bonsai_small", (1, 14, 14)), build(model, seed=0), IMAGE)
    data = dense.to_json()
    older = {name: (p, axis, [first for first, *_ in channels]) for name, (p, axis, channels) in data["places"].items()}
    done: Any = SimpleNamespace(result={"network": {**data, "places": older}})
    assert Network.of(done).places == dense.places


def test_nothing_that_can_go_is_an_error_with_a_way_out() -> None:
    model = ModelConfig("bonsai_small", (1, 14, 14), widths=(1, 1, 1, 1))
    graph = tb.trace(build(model, seed=0), IMAGE)
    with pytest.raises(tb.BudgetError, match="raise min_channels"):
        by_group(graph, {}, {})


def test_a_graph_that_ties_what_was_apart_leaves_no_layer_narrower_than_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first graph of this network has the streams of two stages apart; trials of a cut tie them by twos."""
    monkeypatch.setattr(repair, "_MOST_ALIKE", 1)  # else its shortcuts' paddings are repaired, and nothing is tied
    module, image = build(ModelConfig("resnet20", width=0.25), seed=0), torch.zeros(1, 3, 32, 32)
    found = tb.prune(module, image, budget=tb.Budget(params=0.99), verify=False)
    places, tied = places_of(found.graph), tb.trace(module, image)
    dense = {g.name: g.size for g in found.graph.groups}
    assert sum(widths_of(places, found.plan).values()) < sum(dense.values())
    assert (dense["conv1"], dense["layer2.0.conv2"], tied.by_name["conv1"].size) == (4, 4, 2)
    atoms = held(places, None, tied)
    assert by_group(tied, atoms, dense) == {g.name: g.size for g in tied.groups}
    streams = {"conv1": 1, "layer2.0.conv2": 2, "layer3.0.conv2": 4}
    assert by_group(tied, atoms, dense | streams)["conv1"] == 1
    assert by_group(tied, atoms, dense | streams | {"layer2.0.conv2": 3})["conv1"] == 2


def test_rounds_of_one_share_go_on_below_one_channel(tmp_path: Path) -> None:
    """pretraining-impact: the fifth round has two layers of one channel, which it cannot ask for."""
    more = {"rounds": 5, "share": 0.5, "source_epochs": 1, "start_epochs": 1, "equal_compute": False}
    records = followed("pretraining-impact", tmp_path, **SHORT, **more)
    for r in of(records, "") + of(records, "random-widths"):
        widths = [[*point.widths.values()] for point in r.rounds[-3:]]
        assert widths == [[2, 2, 4, 4], [1, 1, 2, 2], [1, 1, 1, 1]]
        assert [point.channels for point in r.rounds[-3:]] == [12, 6, 4]
    assert of(records, "reinitialised")[0].remade == "factory at widths 1, 1, 1, 1"


def test_rounds_over_all_layers_count_the_last_channels_too(tmp_path: Path) -> None:
    """bonsai-hypothesis: 96 channels to 5, with layers of one channel before the last round."""
    more = {"rounds": 6, "budget": "19x", "methods": ("l2",), "start_epochs": 1, "equal_compute": False}
    records = followed("bonsai-hypothesis", tmp_path, **SHORT, **more)
    pruned = of(records, "")
    assert any(1 in r.rounds[-2].widths.values() for r in pruned), "else this test shows nothing"
    for r in pruned + of(records, "random-widths"):
        asked = [int(96 * (1 / 19) ** (number / 6) + 1e-6) for number in range(2, 7)]
        assert [point.channels for point in r.rounds[-5:]] == asked
        assert [sum(point.widths.values()) for point in r.rounds[-5:]] == asked
        assert [*r.widths] == [*r.dense_widths]
