"""Networks whose layers a cut ties, otherwise in every round: resnet20 at a quarter of its width, not repaired."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_recipes import followed, of

import torchbonsai as tb
from torchbonsai.models.build import ModelConfig, build
from torchbonsai.study.record import RunRecord
from torchbonsai.study.stages import prune as stage
from torchbonsai.study.stages.network import Network, whole
from torchbonsai.surgery import repair

SHORT: dict[str, Any] = {
    "model": "resnet20",
    "width": 0.25,
    "augment": (),
    "limit_train": 32,
    "start_epochs": 1,
    "round_epochs": 1,
    "equal_compute": False,
}


@pytest.fixture(autouse=True)
def unrepaired(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two paddings of a shortcut have the size of its stride by chance: without a guess at them alone, cuts tie."""
    monkeypatch.setattr(repair, "_MOST_ALIKE", 1)


def points(record: RunRecord) -> list[tuple[dict[str, int], int, int]]:
    return [(point.widths, point.macs, point.params) for point in record.rounds]


def test_random_channels_have_the_arm_s_shapes_in_every_round(tmp_path: Path) -> None:
    """The first cut's groups hold channels by twos, the later ones' one by one, so that widths alone do not tell."""
    records = followed("bonsai-hypothesis", tmp_path, **SHORT, rounds=3, methods=("l2",), budget="2x", min_channels=2)
    arms, controls = of(records, ""), of(records, "random-widths")
    assert len(arms) == len(controls) == 2
    assert [points(r) for r in controls] == [points(r) for r in arms]
    assert not any("other shapes" in note for r in controls for note in r.notes)


def test_floors_of_a_share_leave_the_control_the_arm_s_shapes(tmp_path: Path) -> None:
    records = followed(
        "bonsai-hypothesis", tmp_path, **SHORT, rounds=2, methods=("l2",), budget="1.3x", min_channels=0.6
    )
    assert [points(r) for r in of(records, "random-widths")] == [points(r) for r in of(records, "")]


def test_network_trimming_runs_and_its_control_has_its_shapes(tmp_path: Path) -> None:
    records = followed("network-trimming", tmp_path, **SHORT, rounds=2)
    assert [points(r) for r in of(records, "random-widths")] == [points(r) for r in of(records, "")]


def test_a_control_whose_shapes_are_not_the_arm_s_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the control's graph has other groups, there are only the widths of the dense network's layers to go by."""
    monkeypatch.setattr(stage, "_as_cut", lambda like, graph: {})
    settings = {"methods": ("l2",), "budget": "1.5x", "min_channels": 0.3, "rounds": 2}
    controls = of(followed("bonsai-hypothesis", tmp_path, **SHORT, **settings), "random-widths")
    assert controls
    assert all(any("other shapes than its arm" in note for note in r.notes) for r in controls)


def test_one_share_that_ties_do_not_allow_is_told() -> None:
    """A later cut of this network ties streams, which then keep more than their share."""
    model, image = ModelConfig("resnet56", (3, 32, 32), 10, 0.5), torch.zeros(1, 3, 32, 32)
    module = build(model, seed=0)
    network = whole(model, module, image)
    for share in (0.75, 0.5):
        asked: Any = SimpleNamespace(scope="uniform", of="channels", share=share, round_to=1, min_channels=2, only=())
        budget = stage._budget(asked, network, module, image)
        result = tb.prune(module, image, budget=budget, verify=False)
        wanted = stage._one_share_wanted(asked, network, result)
        notes = stage._left(network, result, 0, wanted=wanted).result["notes"]
        network, module = Network.cut(network, result), result.model
        otherwise = [name for name, width in network.widths.items() if width != wanted[name]]
        assert bool(otherwise) == (share == 0.5)
        assert all(any(f"{name} has" in note for note in notes) for name in otherwise)
