"""A kind of stage that a team runs, and that fails once; apart from the other toys, which import less."""

from __future__ import annotations

from dataclasses import dataclass, replace
from unittest.mock import patch

from torchbonsai.core.errors import DataError
from torchbonsai.study.stage import Context, Inputs, Output, runs
from torchbonsai.study.stages import train
from torchbonsai.study.stages.snapshots import Snapshots, snapshots


@dataclass(frozen=True)
class BrokenOff(Snapshots):
    """Training by a team, of which process 0 fails in epoch 2; run again, it goes on from the checkpoint of epoch 1."""


@runs(BrokenOff, "toy-snapshots", version=1, shared=True)
def broken_off(config: BrokenOff, inputs: Inputs, context: Context) -> Output:
    again = (context.folder / train.CHECKPOINT).exists()

    def progress(done: float, of: float, note: str) -> None:
        context.progress(done, of, note)
        if done == 2 and not again:
            raise DataError("broken off")

    with patch.object(train, "CHECKPOINT_SECONDS", -1.0):
        return snapshots(config, inputs, replace(context, progress=progress))
