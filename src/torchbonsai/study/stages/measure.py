"""Stages that measure: accuracy, the one place where the test set is read; and latency, alone on the machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from torch import nn

from torchbonsai.cost.latency import measure_latency
from torchbonsai.pruning.recalibrate import recalibrate
from torchbonsai.study.numerics import Numerics
from torchbonsai.study.stage import Context, Inputs, Output, runs
from torchbonsai.study.stages.images import Images, example, opened, to_score_on
from torchbonsai.study.stages.network import taken
from torchbonsai.training.accuracy import accuracy
from torchbonsai.training.modes import memory_format


@dataclass(frozen=True)
class Evaluate:
    """Validation and test accuracy of the parent "model", which has been trained to its last epoch."""

    data: Images
    numerics: Numerics


@dataclass(frozen=True)
class Validate:
    """Validation accuracy of the parent "model", whose training may go on. The test set is not looked at.

    recalibrate: with the running statistics of its batch norms taken anew on so many training images, which nothing
    but this figure sees; 0: as they are.
    """

    data: Images
    numerics: Numerics
    recalibrate: int = 0


@dataclass(frozen=True)
class Time:
    """Latency of the parent "model" on one image, measured for at least `seconds`."""

    data: Images
    numerics: Numerics
    seconds: float = 0.1


@runs(Evaluate, "evaluate", version=1)
def evaluate(config: Evaluate, inputs: Inputs, context: Context) -> Output:
    """Choices are made on validation; the test figure is only told."""
    _, module = taken(inputs["model"])
    module.to(config.numerics.device)
    splits = opened(config.data, context.places)
    how = {"precision": config.numerics.precision, "channels_last": config.numerics.channels_last}
    val = accuracy(module, splits.val, splits, **how)  # type: ignore[arg-type]
    test = accuracy(module, splits.test, splits, **how)  # type: ignore[arg-type]
    return Output({"val_accuracy": val, "test_accuracy": test})


@runs(Validate, "validate", version=3)
def validate(config: Validate, inputs: Inputs, context: Context) -> Output:
    """What curves are drawn of, and choices made by."""
    _, module = taken(inputs["model"])
    module.to(config.numerics.device)
    splits = opened(config.data, context.places)
    norms = recalibrate(module, to_score_on(splits, config.recalibrate)) if _recalibrates(config, module) else ()
    how = {"precision": config.numerics.precision, "channels_last": config.numerics.channels_last}
    return Output({"val_accuracy": accuracy(module, splits.val, splits, **how), "norms": len(norms)})  # type: ignore[arg-type]


def _recalibrates(config: Validate, module: nn.Module) -> bool:
    """Whether that is asked for and there is a norm that has running statistics."""
    return config.recalibrate > 0 and any(name.endswith("running_mean") for name, _ in module.named_buffers())


@runs(Time, "latency", version=1, exclusive=True)
def latency(config: Time, inputs: Inputs, context: Context) -> Output:
    """`cost.latency.measure_latency`, in float32 and in the layout of the study."""
    _, module = taken(inputs["model"])
    numerics, layout = config.numerics, memory_format(config.numerics.channels_last)
    image = example(opened(config.data, context.places)).to(numerics.device, memory_format=layout)
    module.to(numerics.device, memory_format=layout)  # type: ignore[call-overload]
    measured = measure_latency(module, image, min_seconds=config.seconds, threads=numerics.threads)
    return Output({"measured": "on this machine, see timing"}, timing={"latency": asdict(measured)})
