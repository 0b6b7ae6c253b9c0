"""Two processes train as one does: the same kept channels, the same weights to rounding, the same accuracy."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from together import made, network, work

from torchbonsai.core.errors import ConfigError
from torchbonsai.training import TrainConfig, fit
from torchbonsai.training.team import Team, check_widths


class Half:
    """What `Team` reads of a Fabric, for the second of two processes."""

    global_rank, world_size = 1, 2


def test_shares_are_ragged_and_their_weights_make_the_batchs_mean() -> None:
    team, batch = Team(Half()), torch.arange(7.0)
    assert batch[team.mine].tolist() == [1, 3, 5]
    mean = sum(team.weight(7, len(part)) * part.mean() for part in (batch[0::2], batch[1::2])) / 2
    assert mean == batch.mean()


class Alike:
    """What `Team` reads of a Fabric, where all `world_size` processes have the same."""

    global_rank = 0

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size

    def all_reduce(self, tensor: torch.Tensor, reduce_op: str) -> torch.Tensor:
        assert reduce_op == "sum"
        return tensor * self.world_size


@pytest.mark.parametrize("size", range(2, 9))
def test_equal_networks_are_equal_in_any_number_of_processes(size: int) -> None:
    for width in range(1, 40):
        check_widths(Team(Alike(size)), torch.nn.Linear(2, width))


def test_a_batch_without_an_image_for_each_is_refused() -> None:
    splits = made()
    with pytest.raises(ConfigError, match="an image for each"):
        fit(network(), splits.train, TrainConfig(1, batch_size=1), splits=splits, team=Team(Half()))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("lightning_fabric") is None, reason="needs lightning-fabric")
def test_two_processes_end_where_one_does(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    script = str(Path(__file__).with_name("together.py"))
    done = subprocess.run([sys.executable, script, str(tmp_path)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    work(None, str(tmp_path))
    alone, first, second = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1"))
    assert first == second
    assert first.pop("raised") == ["PlanError", "BudgetError"]
    assert (first.pop("gathered"), alone.pop("gathered")) == ([[250], [251]], [[250]])
    assert first.pop("loss") == pytest.approx(alone.pop("loss"), rel=1e-5)
    alone.pop("raised")
    assert first == alone
    weights = [load_file(tmp_path / f"{name}.safetensors") for name in ("1-0", "2-0", "2-1")]
    for name, tensor in weights[0].items():
        assert torch.allclose(tensor, weights[1][name], atol=1e-5)
        assert torch.equal(weights[1][name], weights[2][name])
