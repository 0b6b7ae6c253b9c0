"""What becomes of the weights after a cut: kept, rewound to those before the first cut, or made anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_recipes import arms, followed, of

from torchbonsai.core.config import plain
from torchbonsai.core.errors import ConfigError
from torchbonsai.study.recipes.bonsai_hypothesis import BonsaiHypothesis
from torchbonsai.study.recipes.network_trimming import NetworkTrimming
from torchbonsai.study.record import RunRecord
from torchbonsai.study.stages.network import Network, taken
from torchbonsai.study.store import Done, Store
from torchbonsai.surgery.apply import apply
from torchbonsai.surgery.plan import PruningPlan

SMALL: dict[str, Any] = {
    "model": "bonsai_small",
    "limit_train": 64,
    "batch_size": 16,
    "start_epochs": 1,
    "rounds": 2,
    "round_epochs": 1,
    "methods": ("l2",),
}
CUT = ("", "random-widths")


@pytest.fixture(scope="module")
def rewound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[RunRecord]]:
    out = tmp_path_factory.mktemp("rewound")
    return out, followed("bonsai-hypothesis", out, **SMALL, weights="rewind")


def stages(out: Path, kind: str) -> list[Done]:
    store = Store(out / "stages")
    return [d for path in (out / "stages").glob(f"{kind}-*") if (d := store.load(path.name)) is not None]


def test_every_cut_has_the_weights_of_right_before_the_first(rewound: tuple[Path, list[RunRecord]]) -> None:
    """Each start after its training before the first cut; another one under equal compute, where that is longer."""
    out, records = rewound
    whole = [d for d in stages(out, "train") if Network.of(d).macs == Network.of(d).dense_macs]
    dense = [taken(d)[1] for d in whole]
    found = stages(out, "rewind")
    cuts = sum(len(r.rounds) - 1 for r in records if r.arm.control in CUT)
    assert 8 <= len(found) <= cuts, "two starts, two arms, two rounds; some arms are the same under equal compute"
    trainings = set()
    for stage in found:
        plan, weights = PruningPlan.from_json(Network.of(stage).plan), stage.tensors()
        alike = [n for n, early in enumerate(dense) if _equal(apply(plan, early).state_dict(), weights)]
        assert len(alike) == 1, "of one dense network's"
        trainings.add(_trainings(out, whole[alike[0]]))
    assert trainings == {1, 2}, "of the untrained start one, of the trained one its own and one"


def _trainings(out: Path, stage: Done) -> int:
    parent = stage.record["parents"]["model"]["key"]
    before = Store(out / "stages").load(parent)
    return 1 + (_trainings(out, before) if before is not None and parent.startswith("train-") else 0)


def _equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def test_all_arms_that_are_cut_use_it_and_nothing_is_spent_on_it(
    rewound: tuple[Path, list[RunRecord]], tmp_path: Path
) -> None:
    _, records = rewound
    kept = followed("bonsai-hypothesis", tmp_path, **SMALL, equal_compute=False)
    assert arms(records, "equal-epochs") == arms(kept, "equal-epochs") == arms(records, "equal-compute")
    for control in CUT:
        for one, other in zip(of(records, control), of(kept, control), strict=True):
            assert one.arm == other.arm
            assert one.remade == "rewound to earlier weights of the dense network"
            assert other.remade == ""
            assert one.verification["exact"], "what the cut proved goes along"
            assert one.rounds[0] == other.rounds[0], "before the first cut nothing differs"
            assert one.rounds[1].widths == other.rounds[1].widths, "nor does the first choice"
            assert [r.channels for r in one.rounds] == [r.channels for r in other.rounds]
            assert one.spent.training == sum(3 * r.macs * 64 for r in one.rounds)
            assert one.spent.scoring == other.spent.scoring
            assert one.rounds[1].after_cut is not None


def test_new_weights_after_every_cut_with_apoz_told(tmp_path: Path) -> None:
    settings = {"start_epochs": 1, "rounds": 2, "round_epochs": 1, "equal_compute": False}
    records = followed("network-trimming", tmp_path, **settings, weights="reinitialise")
    (trimmed,) = of(records, "")
    assert trimmed.remade == f"factory at widths 20, {trimmed.widths['conv2']}, {trimmed.widths['fc1']}"
    assert len(trimmed.scored) == 2
    assert trimmed.spent.scoring > 0
    assert of(records, "random-widths") == [], "new weights are the same, whichever channels had been chosen"


def test_what_was_begun_goes_on_and_another_policy_is_refused() -> None:
    assert "weights" not in plain(NetworkTrimming())
    assert BonsaiHypothesis(weights="rewind").identity != BonsaiHypothesis().identity
    with pytest.raises(ConfigError, match="weights must be of keep, rewind, reinitialise"):
        NetworkTrimming(weights="forget")  # type: ignore[arg-type]
