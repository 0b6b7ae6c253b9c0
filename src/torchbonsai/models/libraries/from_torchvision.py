"""`torchvision:NAME`: the model builders of https://github.com/pytorch/vision."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from torchbonsai.models.libraries.base import imported, known, speaking

INSTALL = "pip install torchvision  (the build that belongs to your torch: https://pytorch.org/get-started)"
SIDE = 224
FRAMES = 16
# What trained weights change in what is built: the builders set these when they load weights.
_TRAINED: dict[str, dict[str, Any]] = {
    "googlenet": {"transform_input": True, "aux_logits": False, "init_weights": True},
    "inception_v3": {"transform_input": True, "init_weights": True},
}
# The default of these two warns that it will change; this is the default, spoken out.
_QUIET: dict[str, dict[str, Any]] = {"googlenet": {"init_weights": True}, "inception_v3": {"init_weights": True}}


class Torchvision:
    """Names as `torchvision.models.list_models()` has them."""

    classes_option = "num_classes"

    def factory(self, name: str) -> Callable[..., nn.Module]:
        """The builder of that name, its backbone without weights too. Raises ConfigError for an unknown name."""
        models = _models(name)

        def make(**options: Any) -> nn.Module:
            given: dict[str, Any] = {"weights": None, **_QUIET.get(name, {}), **options}
            if "weights_backbone" in _parameters(models, name):
                given["weights_backbone"] = None
            with speaking(f"torchvision:{name}"):
                return models.get_model(name, **given)

        return make

    def pretrained(self, name: str) -> nn.Module:
        """With the best weights that torchvision has for that name."""
        models = _models(name)
        with speaking(f"torchvision:{name} with trained weights"):
            return models.get_model(name, weights="DEFAULT")

    def structure(self, name: str) -> dict[str, Any]:
        """Auxiliary heads and the input's transform, which the builders switch when they load weights."""
        segments = {"aux_loss": True} if "aux_loss" in _parameters(_models(name), name) else {}
        return {**segments, **_TRAINED.get(name, {})}

    def input_shape(self, name: str, model: nn.Module) -> tuple[int, ...] | None:
        """The crop that the default weights were trained for, 16 frames for video; else 3x224x224."""
        with speaking(f"torchvision:{name}"):
            default = getattr(_models(name).get_model_weights(name), "DEFAULT", None)
            transforms = getattr(default, "transforms", None)
            settings = getattr(transforms, "keywords", {})
            crop = settings.get("crop_size", SIDE)
            height, width = crop if isinstance(crop, tuple | list) else (crop, crop)
            if getattr(getattr(transforms, "func", None), "__name__", "") == "VideoClassification":
                return 3, FRAMES, int(height), int(width)
            return 3, int(height), int(width)


def _models(name: str) -> Any:
    models = imported("torchvision", INSTALL).models
    known(name, models.list_models(), "torchvision")
    return models


def _parameters(models: Any, name: str) -> set[str]:
    return set(inspect.signature(models.get_model_builder(name)).parameters)
