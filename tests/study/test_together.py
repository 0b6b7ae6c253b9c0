"""A training that the runner shares out to two processes ends as in one, also broken off and gone on with."""

from __future__ import annotations

import queue
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_team import BrokenOff

from torchbonsai.core.config import canonical_json
from torchbonsai.core.errors import ConfigError, DataError
from torchbonsai.data.load import DataConfig
from torchbonsai.models.build import ModelConfig
from torchbonsai.study import numerics as arithmetic
from torchbonsai.study import together
from torchbonsai.study.config import config_of
from torchbonsai.study.executor import InProcess, default_workers, running
from torchbonsai.study.numerics import Numerics, check_device
from torchbonsai.study.runner import run
from torchbonsai.study.stage import Stage
from torchbonsai.study.stages.images import Images, found
from torchbonsai.study.stages.snapshots import Snapshots
from torchbonsai.study.stages.start import NewWeights
from torchbonsai.study.stages.train import CHECKPOINT, Train
from torchbonsai.study.store import RECORD, TENSORS, Done, Store
from torchbonsai.study.work import StageError, Task, config_to_json, perform
from torchbonsai.training.config import TrainConfig

needs_fabric = pytest.mark.skipif(find_spec("lightning_fabric") is None, reason="needs lightning-fabric")
TRAINING = TrainConfig(3, lr=0.02, batch_size=33, augment=("crop", "flip"))
"""99 images in batches of 33: 17 for one process, 16 for the other."""


def parts() -> tuple[Images, Stage]:
    """Images, and LeNet, which has no batch norm, with new weights."""
    images, splits, _ = found(DataConfig("fashion-target-28", limit_train=99))
    return images, Stage(NewWeights(ModelConfig("lenet", splits.in_shape, splits.classes), images, 0))


def same(alone: Done, both: Done) -> None:
    weights, expected = both.tensors(), alone.tensors()
    assert weights.keys() == expected.keys() != set()
    for name, tensor in expected.items():
        assert torch.allclose(tensor, weights[name], atol=1e-4), name


@pytest.mark.slow
@needs_fabric
def test_a_worker_shares_its_training_out(tmp_path: Path) -> None:
    images, begin = parts()
    one, two = (Stage(Train(images, TRAINING, Numerics(devices=n)), {"model": begin}) for n in (1, 2))
    store, told = Store(tmp_path), []
    with running(store, 1, 1) as executor:
        done = run([one, two], store, executor, listener=lambda event: told.append((event.what, event.stage)))
    assert ("progress", two) in told
    alone, both = done[one.spec], done[two.spec]
    assert alone.key != both.key
    assert both.record["config"]["numerics"]["devices"] == 2
    for name in ("samples", "steps", "training_macs"):
        assert both.result[name] == alone.result[name]
    assert both.result["loss"] == pytest.approx(alone.result["loss"], rel=1e-4)
    same(alone, both)


@pytest.mark.slow
@needs_fabric
def test_broken_off_it_goes_on(tmp_path: Path) -> None:
    images, begin = parts()
    store = Store(tmp_path)
    parent = run([begin], store, InProcess(store))[begin.spec]

    def task(kind: str, config: type[Snapshots], devices: int) -> Task:
        made = config(images, TRAINING, Numerics(devices=devices), (0.0, 1.0))
        return Task(f"{kind}-under-test", kind, config_to_json(made), {"model": parent.key})

    alone = perform(task("snapshots", Snapshots, 1), store, lambda *told: None)
    job, told = task("toy-snapshots", BrokenOff, 2), []
    with pytest.raises(DataError, match="broken off"):  # an error of a process, as what it is
        perform(job, store, lambda *told: None)
    assert store.load(job.key) is None
    assert (store.path(job.key) / CHECKPOINT).exists()
    both = perform(job, store, lambda *progress: told.append(progress[0]))
    assert told[0] == 2, "epoch 1 is not trained again"
    assert {path.name for path in store.path(job.key).iterdir()} - {"lock"} == {RECORD, TENSORS}
    same(alone, both)


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


def test_milestones_without_the_schedule_that_has_them_are_refused() -> None:
    with pytest.raises(ConfigError, match="schedule=cosine"):
        config_of(milestones=(0.3, 0.6))
    assert config_of(milestones=[0.5, 0.75]).identity == config_of().identity
    assert config_of(milestones=[0.3], schedule="step").training(1, 0).milestones == (0.3,)


def test_the_death_of_a_process_is_told_not_that_others_lost_their_connection() -> None:
    reports: queue.Queue[Any] = queue.Queue()
    reports.put((None, {"key": "k", "error": {"type": "", "message": "RuntimeError: Connection closed by peer"}}))
    reports.put((None, {"ended": -9}))
    with pytest.raises(StageError, match="exit code -9"):
        together._wait([None, None], reports, lambda *told: None)  # type: ignore[list-item]


def test_an_error_of_a_process_is_itself_where_none_died(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "PATIENCE", 0.05)
    for kind, raised in (("", StageError), ("DataError", DataError)):
        reports: queue.Queue[Any] = queue.Queue()
        reports.put((None, {"key": "k", "error": {"type": kind, "message": "as it was"}}))
        with pytest.raises(raised, match="as it was"):
            together._wait([None, None], reports, lambda *told: None)  # type: ignore[list-item]


def test_one_training_at_a_time_where_it_takes_several_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert (default_workers(), default_workers(2)) == (2, 1)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert default_workers(2) == 0


def test_a_team_without_fabric_is_told_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "find_spec", lambda name: None)
    check_device("cpu", 1)
    with pytest.raises(ConfigError, match=r"torchbonsai\[distributed\]"):
        check_device("cpu", 2)
