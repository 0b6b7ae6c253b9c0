"""The learning rate after a cut: of the rounds alone, in every arm that goes in rounds, whole networks too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_recipes import followed

from torchbonsai.core.config import plain
from torchbonsai.core.errors import ConfigError
from torchbonsai.study.recipes.linear_filter_ensembles import LinearFilterEnsembles

SMALL = {"model": "bonsai_small", "limit_train": 64, "batch_size": 16, "round_epochs": 1, "start_epochs": 1}
RATES = {
    "new-weights": {0.1},
    "uniform": {0.1},
    "reinitialise": {0.1},
    "prune": {0.01},
    "random-widths": {0.01},
}


def rates(out: Path) -> dict[str, set[float]]:
    """Kind of the stage that a training begins from -> learning rates."""
    found: dict[str, set[float]] = {}
    for path in (out / "stages").glob("train-*/record.json"):
        record = json.loads(path.read_text())
        before = record["parents"]["model"]["key"].rsplit("-", 1)[0]
        found.setdefault(before, set()).add(record["config"]["training"]["lr"])
    return found


def test_rounds_have_their_own_rate_under_both_fairnesses_and_new_weights_the_first(tmp_path: Path) -> None:
    settings = SMALL | {"rounds": 2, "hold_out": 0, "methods": ("l2",), "lr": 0.1, "round_lr": 0.01}
    records = followed("linear-filter-ensembles", tmp_path, **settings)
    assert {r.arm.fairness for r in records} == {"equal-epochs", "equal-compute"}
    assert rates(tmp_path) == RATES | {"train": {0.01}}, "of the dense control, which is trained in the same rounds"


def test_training_before_the_first_cut_is_at_the_rate_of_the_study(tmp_path: Path) -> None:
    """The trained start, and the round without a cut that follows it here."""
    settings = SMALL | {"rounds": 1, "methods": ("l2",), "lr": 0.1, "round_lr": 0.01, "equal_compute": False}
    followed("bonsai-hypothesis", tmp_path, **settings)
    assert rates(tmp_path) == RATES | {"train": {0.1, 0.01}}


def test_it_is_the_rate_of_the_study_unless_given_and_what_was_begun_goes_on() -> None:
    assert LinearFilterEnsembles(lr=0.2).rate_of_rounds == 0.2
    assert "round_lr" not in plain(LinearFilterEnsembles())
    for wrong in (0.0, -1.0, float("inf")):
        with pytest.raises(ConfigError, match="round_lr must be above 0"):
            LinearFilterEnsembles(round_lr=wrong)
