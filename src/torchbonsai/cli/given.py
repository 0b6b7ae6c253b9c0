"""The arguments that say which model is meant, shared by the commands that take one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from torchbonsai.artifacts.given import GivenModel, given_model

ModelName = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]


@dataclass(frozen=True)
class ModelArguments:
    """Which model, which weights, which inputs."""

    model: ModelName
    """A name of our zoo, timm:NAME, torchvision:NAME, hf:ID, package.module:factory, or a saved folder."""
    pretrained: bool = False
    """Load the weights that the library's authors trained. Default: random weights."""
    weights: str | None = None
    """Load this checkpoint: a .safetensors file, or a state dict that torch.save wrote."""
    input: tuple[str, ...] = ()
    """Shape of each input, batch first: 1,3,224,224. Needed where the size is unknown."""
    classes: int | None = None
    """Classes of the head, where it is not the usual number."""
    seed: int = 0
    """Of random weights, random inputs and random scores."""

    def opened(self) -> GivenModel:
        """The model, built or loaded."""
        return given_model(
            self.model,
            pretrained=self.pretrained,
            weights=self.weights,
            inputs=self.input,
            classes=self.classes,
            seed=self.seed,
        )
