"""Training on images that lie on disk: the bits of training in memory, in less memory than the images are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from torchbonsai.criteria import GateSaliency
from torchbonsai.criteria.base import ScoringContext
from torchbonsai.data import DataConfig, Splits, load, normalise, pictures, prefetch
from torchbonsai.pruning.prune import trace
from torchbonsai.study.stages.gates import loss_of, to_learn_on
from torchbonsai.study.stages.images import example
from torchbonsai.training import TrainConfig, accuracy, fit


def made(folder: Path, train: int, test: int) -> Path:
    """Two classes of 8x8 pictures, one of them brighter."""
    generator = np.random.default_rng(0)
    for part, count in (("train", train), ("test", test)):
        for number, name in enumerate("ab"):
            (folder / part / name).mkdir(parents=True)
            for k in range(count):
                pixels = generator.integers(100 * number, 156 + 100 * number, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{k:03}.png")
    return folder


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Splits, Splits]:
    """The same folder in memory, and on disk."""
    monkeypatch.setenv("TORCHBONSAI_CACHE", str(tmp_path / "cache"))
    config = DataConfig("folder", str(made(tmp_path / "pictures", 24, 9)), image_size=8)
    held = load(config)
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(pictures, "IN_MEMORY", 0)
    mapped = load(config)
    assert len(list((tmp_path / "cache" / "pictures").glob("*.uint8"))) == 3
    return held, mapped


def small_net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten())
        return nn.Sequential(features, nn.Linear(6 * 64, 2))


def test_an_epoch_fetched_ahead_gives_the_same_weights(
    both: tuple[Splits, Splits], monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead: list[int] = []
    prefetched = prefetch.prefetched
    monkeypatch.setattr(prefetch, "prefetched", lambda *a, **k: ahead.append(1) or prefetched(*a, **k))
    config = TrainConfig(epochs=2, batch_size=8, augment=("crop", "flip", "cutout"), seed=4)
    trained = []
    for splits, share in zip(both, (0.5, 0.0), strict=True):  # of the device's memory: no room for the second
        monkeypatch.setattr(prefetch, "SHARE", share)
        model = small_net()
        history = fit(model, splits.train, config, splits=splits, val=splits.val)
        rounds = [(e.loss, e.train_accuracy, e.val_accuracy) for e in history.epochs]
        trained.append((model.state_dict(), rounds, accuracy(model, splits.test, splits, batch_size=5)))
    assert len(ahead) == 2, "an epoch each, of the second run alone"
    (one, rounds, share), (two, others, other) = trained
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert (rounds, share) == (others, other)
    assert share > 0.9


def test_gates_learn_on_bytes_what_they_learn_on_numbers(both: tuple[Splits, Splits]) -> None:
    held, mapped = both
    found = []
    for splits in both:
        model = small_net()
        batches = to_learn_on(splits, 30, 8)
        assert {x.dtype for x, _ in batches} == {torch.uint8}
        assert batches[0][0].data_ptr() == splits.train.x.data_ptr(), "no copy"
        context = ScoringContext(trace(model, example(splits)), model, batches, loss=loss_of(splits))
        found.append(context.resolve(GateSaliency(epochs=2)))
    model = small_net()
    x, y = normalise(held.train.x[:30], held), held.train.y[:30]
    numbers = list(zip(x.tensor_split(4), y.tensor_split(4), strict=True))
    found.append(ScoringContext(trace(model, example(held)), model, numbers).resolve(GateSaliency(epochs=2)))
    (gates,) = found[0].values()
    assert gates.unique().numel() > 2
    assert all(torch.equal(gates, next(iter(other.values()))) for other in found[1:])
    assert mapped.train.x.data_ptr() != held.train.x.data_ptr()


SIDE, PER_CLASS = 256, (130, 30)
DATA = 2 * sum(PER_CLASS) * 3 * SIDE * SIDE
"""63 MB, decoded."""
SPARE = DATA // 2
SCRIPT = f"""
import resource, sys, threading
import torch
from torch import nn
from torchbonsai.criteria import GateSaliency
from torchbonsai.criteria.base import ScoringContext
from torchbonsai.data import DataConfig, load, pictures, prefetch
from torchbonsai.pruning.prune import trace
from torchbonsai.study.stages.gates import loss_of, to_learn_on
from torchbonsai.study.stages.images import digest_of, example
from torchbonsai.training import TrainConfig, accuracy, fit

def own():  # bytes of memory that is no file's, as the limit counts them
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmData"))

def study(folder, side, spare=None):
    config = DataConfig("folder", folder, image_size=side)
    if spare is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (own() + spare, resource.RLIM_INFINITY))
    splits = load(config)
    digest_of(splits)
    features = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(features, nn.Linear(4, 2))
    context = ScoringContext(trace(model, example(splits)), model, to_learn_on(splits, 10**6, 4), loss=loss_of(splits))
    context.resolve(GateSaliency(epochs=1))
    training = TrainConfig(epochs=1, batch_size=4, augment=("flip",))
    fit(model, splits.train, training, splits=splits)
    accuracy(model, splits.test, splits, batch_size=4)
    return sum(p.x.numel() for p in splits.parts)

torch.set_num_threads(1)
threading.stack_size(1 << 19)
prefetch.SHARE, pictures.IN_MEMORY, pictures.AT_ONCE = 0.0, 0, 1 << 21
study(sys.argv[1], 4)  # what is imported or begun once is there
assert study(sys.argv[1], {SIDE}, {SPARE}) == {DATA}
print("trained")
pictures.IN_MEMORY = {DATA}
try:
    load(DataConfig("folder", sys.argv[1], image_size={SIDE}))
except MemoryError:
    print("too large for memory")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit on a process's own memory is Linux's")
def test_a_folder_larger_than_memory_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHBONSAI_CACHE", str(tmp_path / "cache"))
    for name, value in (("MALLOC_MMAP_THRESHOLD_", "65536"), ("MALLOC_ARENA_MAX", "1")):
        monkeypatch.setenv(name, value)  # what is freed goes back, and does not count any more
    folder = str(made(tmp_path / "pictures", *PER_CLASS))

    run = [sys.executable, "-c", SCRIPT, folder]
    study = subprocess.run(run, capture_output=True, text=True, check=False)
    assert study.returncode == 0, study.stderr
    assert study.stdout.splitlines() == ["trained", "too large for memory"]
