"""`timm:NAME`: PyTorch Image Models, https://github.com/huggingface/pytorch-image-models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from torchbonsai.models.libraries.base import imported, known, speaking

INSTALL = "pip install timm"


class Timm:
    """Names as `timm.create_model` takes them, a tag of trained weights (resnet18.a1_in1k) included."""

    classes_option = "num_classes"

    def factory(self, name: str) -> Callable[..., nn.Module]:
        """`timm.create_model` of that name; keywords are its own. Raises ConfigError for an unknown name."""
        timm = _timm(name)

        def make(**options: Any) -> nn.Module:
            with speaking(f"timm:{name}"):
                return timm.create_model(name, pretrained=False, **options)

        return make

    def pretrained(self, name: str) -> nn.Module:
        """With timm's default weights of that name, or those of its tag."""
        timm = _timm(name)
        with speaking(f"timm:{name} with trained weights"):
            return timm.create_model(name, pretrained=True)

    def structure(self, name: str) -> dict[str, Any]:
        """Nothing: trained weights do not change what timm builds."""
        return {}

    def input_shape(self, name: str, model: nn.Module) -> tuple[int, ...] | None:
        """`input_size` of the network's configuration."""
        return configured_shape(model)


def configured_shape(model: nn.Module) -> tuple[int, ...] | None:
    """The `input_size` that timm leaves on a model it built, None where there is none."""
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    size = config.get("input_size") if isinstance(config, dict) else None
    return tuple(int(n) for n in size) if size else None


def _timm(name: str) -> Any:
    timm = imported("timm", INSTALL)
    known(name.partition(".")[0], timm.list_models(), "timm")
    if "." in name:
        known(name, timm.list_pretrained(), "timm")
    return timm
