"""A training that is broken off between two epochs goes on from its checkpoint, to the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchbonsai.data.load import DataConfig
from torchbonsai.models.build import ModelConfig
from torchbonsai.study.executor import InProcess
from torchbonsai.study.numerics import Numerics
from torchbonsai.study.runner import Event, run
from torchbonsai.study.stage import Stage
from torchbonsai.study.stages import train as train_stage
from torchbonsai.study.stages.images import found
from torchbonsai.study.stages.start import NewWeights
from torchbonsai.study.stages.train import CHECKPOINT, Train
from torchbonsai.study.store import Done, Store
from torchbonsai.study.work import Task, config_to_json, perform
from torchbonsai.training.config import TrainConfig


class BrokenOff(Exception):
    """Stands for the death of the process: raised where it stopped."""


def task(store: Store, epochs: float) -> Task:
    """A training of the small network on 100 images; its parent is run first."""
    images, _, _ = found(DataConfig(limit_train=100))
    begin = Stage(NewWeights(ModelConfig("bonsai_small", (1, 14, 14), 5), images, 0))
    parent = run([begin], store, InProcess(store))[begin.spec]
    config = Train(images, TrainConfig(epochs, batch_size=32), Numerics())
    return Task("train-under-test", "train", config_to_json(config), {"model": parent.key})


def broken_off(store: Store, job: Task, after: int) -> None:
    def stop(epoch: float, of: float, note: str) -> None:
        if epoch > after:
            raise BrokenOff

    with pytest.raises(BrokenOff):
        perform(job, store, stop)


def watched(store: Store, job: Task) -> tuple[Done, list[float]]:
    epochs: list[float] = []
    return perform(job, store, lambda epoch, of, note: epochs.append(epoch)), epochs


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every epoch."""
    monkeypatch.setattr(train_stage, "CHECKPOINT_SECONDS", -1.0)


@pytest.mark.usefixtures("eager")
def test_it_goes_on_from_its_checkpoint_to_the_same_bits(tmp_path: Path) -> None:
    unbroken, _ = watched(Store(tmp_path / "a"), task(Store(tmp_path / "a"), 4.5))
    store = Store(tmp_path / "b")
    job = task(store, 4.5)
    broken_off(store, job, after=2)
    assert (store.path(job.key) / CHECKPOINT).exists()
    again, epochs = watched(store, job)
    assert epochs == [3, 4, 5], "epochs 1 and 2 are not trained again"
    assert again.digest == unbroken.digest
    assert not (store.path(job.key) / CHECKPOINT).exists()


@pytest.mark.usefixtures("eager")
def test_a_damaged_checkpoint_costs_time_and_no_correctness(tmp_path: Path) -> None:
    unbroken, _ = watched(Store(tmp_path / "a"), task(Store(tmp_path / "a"), 3))
    store = Store(tmp_path / "b")
    job = task(store, 3)
    broken_off(store, job, after=2)
    path = store.path(job.key) / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-100])
    again, epochs = watched(store, job)
    assert epochs == [1, 2, 3]
    assert again.digest == unbroken.digest


def test_events_name_the_stage_and_its_progress(tmp_path: Path) -> None:
    store = Store(tmp_path)
    images, _, _ = found(DataConfig(limit_train=100))
    begin = Stage(NewWeights(ModelConfig("bonsai_small", (1, 14, 14), 5), images, 0))
    stage = Stage(Train(images, TrainConfig(2), Numerics()), {"model": begin}, "the training")
    events: list[Event] = []
    run([stage], store, InProcess(store), listener=events.append)
    told = [(e.stage.label, e.progress[0]) for e in events if e.progress]
    assert told == [("the training", 1), ("the training", 2)]
