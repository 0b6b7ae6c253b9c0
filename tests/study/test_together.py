"""A training that the runner shares out to two processes ends as in one, also broken off and gone on with."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from toy_stages import BrokenOff

from torchbonsai.core.config import canonical_json
from torchbonsai.core.errors import ConfigError, DataError
from torchbonsai.data.load import DataConfig
from torchbonsai.models.build import ModelConfig
from torchbonsai.study import numerics as arithmetic
from torchbonsai.study.config import config_of
from torchbonsai.study.executor import InProcess
from torchbonsai.study.numerics import Numerics, check_device
from torchbonsai.study.runner import run
from torchbonsai.study.stage import Stage
from torchbonsai.study.stages.images import found
from torchbonsai.study.stages.start import NewWeights
from torchbonsai.study.stages.train import CHECKPOINT, Train
from torchbonsai.study.store import Store
from torchbonsai.study.work import Task, config_to_json, perform
from torchbonsai.training.config import TrainConfig

TRAINING = TrainConfig(3, lr=0.02, batch_size=33, augment=("crop", "flip"))
"""99 images in batches of 33: 17 for one process, 16 for the other."""


def task(store: Store, devices: int) -> Task:
    """A training of LeNet, which has no batch norm; its parent is run first."""
    images, splits, _ = found(DataConfig("fashion-target-28", limit_train=99))
    begin = Stage(NewWeights(ModelConfig("lenet", splits.in_shape, splits.classes), images, 0))
    parent = run([begin], store, InProcess(store))[begin.spec]
    kind, config = ("train", Train) if devices == 1 else ("toy-train", BrokenOff)
    how = config_to_json(config(images, TRAINING, Numerics(devices=devices)))
    return Task("train-under-test", kind, how, {"model": parent.key})


@pytest.mark.slow
@pytest.mark.skipif(find_spec("lightning_fabric") is None, reason="needs lightning-fabric")
def test_two_processes_broken_off_and_gone_on_end_where_one_does(tmp_path: Path) -> None:
    one, two = Store(tmp_path / "1"), Store(tmp_path / "2")
    alone = perform(task(one, 1), one, lambda *told: None)
    job, told = task(two, 2), []
    with pytest.raises(DataError, match="broken off"):  # an error of a process, as what it is
        perform(job, two, lambda *told: None)
    assert two.load(job.key) is None
    assert (two.path(job.key) / CHECKPOINT).exists()
    both = perform(job, two, lambda *progress: told.append(progress[0]))
    assert told[0] == 2, "epoch 1 is not trained again"
    assert not (two.path(job.key) / CHECKPOINT).exists()
    assert both.record["config"]["numerics"]["devices"] == 2
    assert {k: both.result[k] for k in ("samples", "steps")} == {k: alone.result[k] for k in ("samples", "steps")}
    assert both.result["loss"] == pytest.approx(alone.result["loss"], rel=1e-4)
    weights = both.tensors()
    for name, tensor in alone.tensors().items():
        assert torch.allclose(tensor, weights[name], atol=1e-4), name


def test_one_device_is_stored_as_it_always_was() -> None:
    """Studies that were begun before there was a choice go on."""
    assert "devices" not in canonical_json(Numerics())
    assert '"devices":2' in canonical_json(Numerics(devices=2))
    assert config_of().identity == config_of(devices=1).identity != config_of(devices=2).identity


@pytest.mark.parametrize(
    "settings",
    [
        {"devices": 0},
        {"devices": 2, "compile": True},
        {"devices": 2, "device": "cuda:1"},
        {"devices": 2, "precision": "auto"},
        {"devices": 2, "batch_size": 1},
    ],
)
def test_a_team_that_makes_no_sense_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="device"):
        config_of(**settings)


def test_a_team_without_fabric_is_told_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "find_spec", lambda name: None)
    check_device("cpu", 1)
    with pytest.raises(ConfigError, match=r"torchbonsai\[distributed\]"):
        check_device("cpu", 2)
