"""The stage that trains: a network in, the same network with other weights out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import safetensors
import safetensors.torch
from torch import nn

from torchbonsai.core.config import write_atomic
from torchbonsai.data.splits import Splits
from torchbonsai.study.fairness import training_macs
from torchbonsai.study.numerics import Numerics
from torchbonsai.study.stage import Context, Inputs, Output, runs
from torchbonsai.study.stages.images import Images, opened, without_held_out
from torchbonsai.study.stages.network import left, taken
from torchbonsai.training.config import TrainConfig
from torchbonsai.training.loop import fit
from torchbonsai.training.report import EpochReport, History
from torchbonsai.training.state import TrainState
from torchbonsai.training.team import ALONE, check_widths

CHECKPOINT = "checkpoint.safetensors"
CHECKPOINT_SECONDS = 15.0
"""A run is broken off at most so long after its last checkpoint, or in the epoch after it."""


@dataclass(frozen=True)
class Train:
    """Train the parent "model" on the training split of `data`. training: precision and layout as in `numerics`.

    hold_out: so many images at the end of the split are not trained on, so that a criterion can score on them.
    """

    data: Images
    training: TrainConfig
    numerics: Numerics
    hold_out: int = 0


@runs(Train, "train", version=1, shared=True)
def train(config: Train, inputs: Inputs, context: Context) -> Output:
    """`training.loop.fit`, with a checkpoint beside the record so that a long run goes on where it stopped."""
    network, module = taken(inputs["model"])
    module.to(config.numerics.device)
    splits = without_held_out(opened(config.data, context.places), config.hold_out)
    history = fitted(module, splits, config.training, context)
    spent = {"samples": history.samples, "steps": history.steps}
    macs = training_macs(network.macs, history.samples)
    module.to("cpu")
    output = left(network, module, epochs=config.training.epochs, loss=history.loss, training_macs=macs, **spent)
    return Output(output.result, output.tensors, {"training_seconds": round(history.seconds, 3)})


def fitted(
    module: nn.Module,
    splits: Splits,
    training: TrainConfig,
    context: Context,
    after_epoch: Callable[[EpochReport], None] = lambda report: None,
) -> History:
    """`fit`, going on from the checkpoint in the stage's folder if there is one. after_epoch: called before the next
    checkpoint is written; of a team, by process 0 alone, which writes them."""
    team = context.team or ALONE
    check_widths(team, module)
    path = context.folder / CHECKPOINT
    state = _read(path)
    last = monotonic()

    def on_epoch(report: EpochReport) -> None:
        nonlocal last
        if team.rank:
            return
        after_epoch(report)
        context.progress(report.epoch, training.epochs, f"training accuracy {report.train_accuracy:.0%}")
        if monotonic() - last > CHECKPOINT_SECONDS:
            write_atomic(path, safetensors.torch.save(state.state_dict()))
            last = monotonic()

    history = fit(module, splits.train, training, splits=splits, on_epoch=on_epoch, state=state, team=team)
    if not team.rank:
        path.unlink(missing_ok=True)
    return history


def _read(path: Path) -> TrainState:
    """The state to go on from; an empty one where there is none. A damaged checkpoint costs time, no correctness."""
    try:
        return TrainState.load(safetensors.torch.load(path.read_bytes()))
    except (FileNotFoundError, safetensors.SafetensorError):
        return TrainState()
