"""The learning rate after a cut: of the rounds alone, in every arm that goes in rounds, whole networks too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_recipes import followed

from torchbonsai.core.config import plain
from torchbonsai.core.errors import ConfigError
from torchbonsai.study.recipes.linear_filter_ensembles import LinearFilterEnsembles


def test_rounds_have_their_own_rate_under_both_fairnesses_and_new_weights_the_first(tmp_path: Path) -> None:
    small = {"model": "bonsai_small", "limit_train": 64, "batch_size": 16, "rounds": 2, "round_epochs": 1}
    records = followed(
        "linear-filter-ensembles", tmp_path, **small, methods=("l2",), start_epochs=1, hold_out=0, lr=0.1, round_lr=0.01
    )
    assert {r.arm.fairness for r in records} == {"equal-epochs", "equal-compute"}
    rates: dict[str, set[float]] = {}
    for path in (tmp_path / "stages").glob("train-*/record.json"):
        record = json.loads(path.read_text())
        before = record["parents"]["model"]["key"].rsplit("-", 1)[0]
        rates.setdefault(before, set()).add(record["config"]["training"]["lr"])
    assert rates == {
        "new-weights": {0.1},
        "uniform": {0.1},
        "reinitialise": {0.1},
        "train": {0.01},  # the dense control, which is trained in the same rounds
        "prune": {0.01},
        "random-widths": {0.01},
    }


def test_it_is_the_rate_of_the_study_unless_given_and_what_was_begun_goes_on() -> None:
    assert LinearFilterEnsembles(lr=0.2).rate_of_rounds == 0.2
    assert "round_lr" not in plain(LinearFilterEnsembles())
    for wrong in (0.0, -1.0, float("inf")):
        with pytest.raises(ConfigError, match="lr"):
            LinearFilterEnsembles(round_lr=wrong)
