"""The trained CIFAR-10 ResNets and the images that benchmarks measure them on.

The networks have seen, and memorised, every training image. So whatever is chosen by a measurement is chosen on the
first half of the test set, and told on the other half.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchbonsai.data import DataConfig, load
from torchbonsai.data.batches import normalise
from torchbonsai.data.splits import Splits, TestSplit
from torchbonsai.models import ModelConfig
from torchbonsai.training.start import checkpointed

HALF = 5000
Batches = list[tuple[Tensor, Tensor]]


def data_folder() -> Path:
    """TORCHBONSAI_DATA, or a word on what is missing."""
    folder = os.environ.get("TORCHBONSAI_DATA")
    if not folder:
        sys.exit("TORCHBONSAI_DATA is not set: it must hold restore.py and weights/resnet*.th")
    return Path(folder)


def cifar10(folder: Path | None) -> Splits:
    """CIFAR-10 from its python batches in `folder`, else restored for this run from TORCHBONSAI_DATA."""
    return load(DataConfig("cifar10", str(folder or restored())))


@functools.cache
def restored(*more: str) -> Path:
    """The python batches of CIFAR-10, and of `more` sets, in one folder that is gone at the end of the run."""
    folder = Path(tempfile.mkdtemp(prefix="cifar10-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name in ("cifar10", *more):
        command = [sys.executable, str(data_folder() / "restore.py"), name, str(folder)]
        subprocess.run(command, check=True, capture_output=True)
    return folder


def resnet(depth: int) -> nn.Module:
    """With the trained weights, in eval mode."""
    weights = next((data_folder() / "weights").glob(f"resnet{depth}-*.th"))
    return checkpointed(ModelConfig(f"resnet{depth}"), weights, seed=0).eval()


def choosing(splits: Splits, images: int, batch: int, seed: int | None = None) -> Batches:
    """`images` of the first half of the test set: the first ones, or drawn by `seed`."""
    order = torch.arange(HALF)
    if seed is not None:
        order = torch.randperm(HALF, generator=torch.Generator().manual_seed(seed))
    return batches_of(splits, order[:images], batch)


def seen(splits: Splits, images: int, batch: int, seed: int) -> Batches:
    """`images` of the training images, drawn by `seed`: the networks know them by heart."""
    order = torch.randperm(len(splits.train.y), generator=torch.Generator().manual_seed(seed))
    return [(normalise(splits.train.x[i], splits), splits.train.y[i]) for i in order[:images].split(batch)]


def other_half(splits: Splits, images: int) -> TestSplit:
    """The first `images` of the test images that nothing is chosen on."""
    return TestSplit(splits.test.x[HALF:][:images], splits.test.y[HALF:][:images])


def write(path: Path, record: dict[str, Any]) -> None:
    """As JSON: the old record or the new one, never a part."""
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=1) + "\n")
    part.replace(path)


def batches_of(splits: Splits, which: Tensor, batch: int) -> Batches:
    """Test images by number, normalised."""
    return [(normalise(splits.test.x[i], splits), splits.test.y[i]) for i in which.split(batch)]
