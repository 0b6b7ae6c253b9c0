"""The arguments that say which images are looked at, beside the model of `cli.given`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from torchbonsai.artifacts.given import GivenModel
from torchbonsai.core.errors import ConfigError, message
from torchbonsai.data.batches import Batch
from torchbonsai.data.load import DataConfig, load
from torchbonsai.study.stages.images import to_score_on


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

    def batches(self, given: GivenModel) -> list[Batch] | None:
        """Normalised images of the size that the model takes, and their classes; None where no data set is named.

        Raises ConfigError for images that the model does not take, DataError for files that are missing or altered.
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
        splits = load(DataConfig(self.data, self.data_dir, image_size=shape[1] if shape[1] == shape[2] else None))
        if splits.in_shape != shape:
            must = f"the images of --data must have the shape {shape} that {given.name} takes"
            raise _wrong(must, f"{splits.in_shape} of {self.data}", "give another --data, or the right --input")
        return to_score_on(splits, self.score_images)


def _wrong(must: str, got: str, way_out: str) -> ConfigError:
    return ConfigError(message(must, got, "options that do not go together", way_out))
