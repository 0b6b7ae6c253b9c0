"""Networks whose layers a cut ties, otherwise in every round: resnet20 at a quarter of its width."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_recipes import followed, of

from torchbonsai.study.record import RunRecord
from torchbonsai.study.stages import prune as stage

SHORT: dict[str, Any] = {
    "model": "resnet20",
    "width": 0.25,
    "augment": (),
    "limit_train": 32,
    "start_epochs": 1,
    "round_epochs": 1,
    "equal_compute": False,
}


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
    settings = {"methods": ("l2",), "budget": "1.3x", "min_channels": 0.6, "rounds": 2}
    controls = of(followed("bonsai-hypothesis", tmp_path, **SHORT, **settings), "random-widths")
    assert controls
    assert all(any("other shapes than its arm" in note for note in r.notes) for r in controls)
