"""The arguments that say which images are looked at, beside the model of `cli.given`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchbonsai.artifacts.given import GivenModel
from torchbonsai.core.errors import ConfigError, message
from torchbonsai.cost.evaluate import call
from torchbonsai.data.batches import Batch
from torchbonsai.data.batches import batches as normalised
from torchbonsai.data.load import SIZED, DataConfig, load, scaled
from torchbonsai.data.splits import TrainSplit


@dataclass(frozen=True)
class ImageArguments:
    """Which images are looked at, named as in `bonsai compare`."""

    data: str | None = None
    """For --fold, and for a --criterion that looks at images: a data set by name, as in bonsai compare. Its training
    images are scaled to the model's input and normalised by the set's own mean and deviation; the network should have
    been trained on such."""
    data_dir: str | None = None
    """Folder with the official files of --data, where it is not embedded."""
    score_images: int = 1000
    """So many training images of --data are looked at."""

    def batches(self, given: GivenModel, *, labelled: bool) -> list[Batch] | None:
        """Normalised images of the size that the model takes, and their classes; None where no data set is named.

        labelled: the classes will be read. Raises ConfigError for images that the model does not take or classes that
        are not its own, DataError for files that are missing or altered.
        """
        if self.data is None:
            if self == ImageArguments():
                return None
            raise _wrong("--data-dir and --score-images go with --data", "no --data", "give --data NAME too")
        if self.score_images < 1:
            raise _wrong("--score-images must be at least 1", f"{self.score_images}", "leave it out for 1000")
        if not isinstance(given.inputs, Tensor) or given.inputs.ndim != 4:
            must, got = "--data needs a model that takes one batch of images", f"other inputs of {given.name}"
            raise _wrong(must, got, "use tb.prune(…, batches=) in Python")
        shape = tuple(given.inputs.shape[1:])
        side = shape[1] if shape[1] == shape[2] else None
        splits = load(DataConfig(self.data, self.data_dir, image_size=side if self.data in SIZED else None))
        seen = splits.train.x[: self.score_images].numpy()  # the others are not looked at, and may be many
        images = torch.from_numpy(scaled(seen, side))
        if images.shape[1:] != shape:
            must = f"the images of --data must have the shape {shape} that {given.name} takes"
            raise _wrong(must, f"{tuple(images.shape[1:])} of {self.data}", "give another --data, or the right --input")
        if labelled:
            _check_classes(given, splits.classes, self.data)
        return normalised(TrainSplit(images, splits.train.y[: len(images)]), splits)


def _check_classes(given: GivenModel, classes: int, data: str) -> None:
    with torch.no_grad():
        outputs = call(given.model, given.inputs)
    if isinstance(outputs, Tensor) and outputs.ndim > 1 and outputs.shape[1] != classes:
        must = f"a criterion that reads labels needs those that {given.name} was made for"
        way_out = "give the data that it was trained on, or a criterion that reads none (apoz, lfe-agreement, l2)"
        raise _wrong(must, f"{outputs.shape[1]} outputs, {classes} classes of {data}", way_out)


def _wrong(must: str, got: str, way_out: str) -> ConfigError:
    return ConfigError(message(must, got, "options that do not go together", way_out))
