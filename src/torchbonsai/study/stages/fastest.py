"""The stage that measures which arithmetic trains fastest on this device; the study keeps the choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torchbonsai.data.batches import normalise
from torchbonsai.models.build import ModelConfig, build
from torchbonsai.study.numerics import Numerics
from torchbonsai.study.stage import Context, Inputs, Output, runs
from torchbonsai.study.stages.images import Images, opened
from torchbonsai.training.config import TrainConfig
from torchbonsai.training.fastest import Measured, fastest, measure


@dataclass(frozen=True)
class Fastest:
    """For trainings of `steps` steps of `training` on the dense network. code: of a factory that is not ours."""

    model: ModelConfig
    data: Images
    training: TrainConfig
    steps: int
    numerics: Numerics
    code: str = ""


@runs(Fastest, "fastest", version=1, exclusive=True)
def choose(config: Fastest, inputs: Inputs, context: Context) -> Output:
    """result: the choice, on which all that follows depends. timing: every candidate."""
    splits, device = opened(config.data, context.places), config.numerics.device
    images = splits.train.x[: config.training.batch_size].to(device)
    batch = normalise(images, splits), splits.train.y[: len(images)].to(device)
    measured = measure(
        lambda: build(config.model, seed=0).to(device), batch, config.training, splits.classes, config.steps
    )
    chosen = fastest(measured, config.steps).arithmetic
    rows = [_row(m, len(images), config.steps) for m in measured]
    result = {"precision": chosen.precision, "channels_last": chosen.channels_last, "compile": chosen.compile}
    return Output({**result, "name": chosen.name}, timing={"candidates": rows, "batch": len(images)})


def _row(measured: Measured, images: int, steps: int) -> dict[str, Any]:
    if measured.step_seconds is None or measured.first_seconds is None:
        return {"name": measured.arithmetic.name, "note": measured.note}
    return {
        "name": measured.arithmetic.name,
        "first_step_seconds": round(measured.first_seconds, 3),
        "images_per_second": round(images / measured.step_seconds, 1),
        "training_seconds": round(measured.training_seconds(steps), 1),
    }
