"""The look at everything a comparison works on, before the first stage: what cannot work fails here."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch

from torchbonsai.core.errors import ConfigError, message
from torchbonsai.data.load import DataConfig
from torchbonsai.data.load import names as data_names
from torchbonsai.models.build import ModelConfig, build
from torchbonsai.study.arms import Material, Source
from torchbonsai.study.config import SOURCES, CompareConfig
from torchbonsai.study.methods import code_digest
from torchbonsai.study.numerics import check_device
from torchbonsai.study.stages.images import epoch_of, found
from torchbonsai.study.stages.start import file_digest
from torchbonsai.training.head import find_head
from torchbonsai.training.start import checkpointed


def look(config: CompareConfig) -> tuple[Material, dict[str, str]]:
    """Read the data and build the model once, so that what cannot work fails before anything is written.

    Returns the material and the places where its content lies. Raises DataError or ConfigError.
    """
    check_device(config.device, config.devices)
    target, splits, places = found(config.data_config)
    model = ModelConfig(config.model, splits.in_shape, splits.classes)
    module = build(model, seed=0)
    if not any(p.requires_grad for p in module.parameters()):
        raise ConfigError(
            message(
                "a model that is compared must have trainable parameters",
                f"{config.model}, which has none",
                "a factory that froze everything",
                "leave requires_grad on",
            )
        )
    source, more = source_of(config, model) if "pretrained" in config.starts else (None, {})
    code = code_digest(config.model) if ":" in config.model else ""
    epoch = epoch_of(splits, config.training(config.epochs, 0))
    return Material(model, target, splits, epoch, source, code), {**places, **more}


class Sourced(Protocol):
    """Settings that say where a pretrained start is from."""

    @property
    def data(self) -> str: ...

    @property
    def data_dir(self) -> str | None: ...

    @property
    def image_size(self) -> int | None: ...

    @property
    def test_half(self) -> bool: ...

    @property
    def source(self) -> str | None: ...

    @property
    def source_epochs(self) -> float | None: ...


def source_of(config: Sourced, model: ModelConfig) -> tuple[Source, dict[str, str]]:
    """A data set or a checkpoint, looked at, and where it lies.

    Raises ConfigError for what is neither, DataError for a checkpoint of another model.
    """
    name = config.source or SOURCES.get(config.data)
    if name is None:
        raise ConfigError(
            message(
                "a pretrained start needs a source",
                f"none for {config.data}",
                "a data set without a usual source",
                "say source=NAME of a data set, or the path of a checkpoint; or leave 'pretrained' out of starts",
            )
        )
    if name in data_names():
        return _data_source(config, model, name)
    source, places = checkpoint_of(name)
    if config.source_epochs is not None:
        raise ConfigError(
            message(
                "source_epochs needs a source that is trained here, a data set",
                f"source_epochs={config.source_epochs} and the checkpoint {Path(name).name}",
                "a checkpoint's training is over",
                "leave source_epochs out",
            )
        )
    checkpointed(model, Path(name).expanduser(), seed=0)
    return source, places


def checkpoint_of(name: str) -> tuple[Source, dict[str, str]]:
    """The source that a checkpoint file is, and where it lies. Raises ConfigError where there is no file."""
    path = Path(name).expanduser()
    if not path.is_file():
        raise ConfigError(
            message(
                "a source must be a data set or a checkpoint file",
                repr(name),
                "a mistyped name or path, or a model of a library instead of its weights",
                f"data sets are {', '.join(data_names())}; what a library's authors trained is --source weights of the "
                "recipe pretraining-impact, beside --model timm:NAME (or torchvision:, hf:)",
            )
        )
    digest = file_digest(path)
    return Source(checkpoint=digest), {digest: str(path.resolve())}


def doubt(settings: Sourced) -> dict[str, str]:
    """What a report must say of a file as the source, which may have been trained on the target's own images."""
    if settings.test_half or settings.source is None or not Path(settings.source).expanduser().is_file():
        return {}
    return {"doubt": f"if it has seen training images of {settings.data}, none of these is held out: test_half"}


def _data_source(config: Sourced, model: ModelConfig, name: str) -> tuple[Source, dict[str, str]]:
    embedded = name.startswith("fashion") and "mnist" not in name
    images, splits, places = found(
        DataConfig(name, None if embedded else config.data_dir, image_size=config.image_size)
    )
    if splits.in_shape != model.in_shape:
        raise ConfigError(
            message(
                f"the source's images must have the target's shape {model.in_shape}",
                f"{splits.in_shape} of {name}",
                "a source of another size or number of channels",
                "choose another source",
            )
        )
    check_head(model)
    return Source(images, splits.classes), places


def check_head(model: ModelConfig) -> None:
    """Raises ConfigError where the last layer cannot be made anew for the target's classes."""
    find_head(build(model, seed=0), torch.zeros(1, *model.in_shape))
