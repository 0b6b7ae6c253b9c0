"""The end of a comparison: the best networks saved, and `study.json` written last."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from torchbonsai.core.config import plain
from torchbonsai.cost.latency import device_name
from torchbonsai.data.splits import Splits
from torchbonsai.study.about import About, write_about
from torchbonsai.study.best import choose
from torchbonsai.study.config import SOURCES, CompareConfig
from torchbonsai.study.look import doubt
from torchbonsai.study.record import RunRecord
from torchbonsai.study.runs import Finished, Run
from torchbonsai.study.store import versions


def summarise(
    config: CompareConfig,
    splits: Splits,
    runs: Sequence[Run],
    records: Sequence[RunRecord],
    finished: Finished,
    measured: Mapping[str, str],
) -> About:
    """Save the best network of each budget, then write `study.json`. records: in the order of `runs`. measured: what
    was chosen by measurement, in words."""
    out = Path(config.out)
    trained = {record.name: finished[run.trained.spec] for run, record in zip(runs, records, strict=True)}
    about = About(
        identity=config.identity,
        config=plain(config),
        data=data_in_words(splits) | pretrained_on(config),
        versions=versions(),
        hardware=hardware(config.device) | dict(measured),
        records=tuple(f"{record.name}.json" for record in records),
        choices=tuple(choose(records, trained, budget, "macs", out) for budget in config.budgets),
        command=command(),
    )
    write_about(about, out)
    return about


def data_in_words(splits: Splits) -> dict[str, Any]:
    """What was trained on, and where it is from."""
    sizes = {"train": len(splits.train), "val": len(splits.val), "test": len(splits.test)}
    about = {"name": splits.name, "classes": splits.classes, "shape": list(splits.in_shape), "source": splits.source}
    return about | sizes | ({} if splits.unseen is None else {"unseen": len(splits.unseen)})


def pretrained_on(config: CompareConfig) -> dict[str, str]:
    """What the pretrained start comes from, if that start is compared: a data set, or a checkpoint's path."""
    if "pretrained" not in config.starts:
        return {}
    return {"pretrained_on": config.source or SOURCES[config.data]} | doubt(config)


def command() -> str:
    """The command line; `python -m torchbonsai` is the same program as `bonsai`."""
    program = Path(sys.argv[0]).name
    return shlex.join(["bonsai" if program == "__main__.py" else program, *sys.argv[1:]])


def hardware(device: str) -> dict[str, Any]:
    """What it ran on."""
    return {
        "device": device_name(torch.device(device)),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
    }
