"""`hf:ID`: a model repository of the Hugging Face hub, or a local folder of the same files.

The repository's config.json says whose network it is: "architecture" is timm's, "model_type" that of transformers.
No code of a repository is ever run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from torchbonsai.core.errors import ConfigError, message
from torchbonsai.models.libraries.base import imported, speaking
from torchbonsai.models.libraries.from_timm import INSTALL as INSTALL_TIMM
from torchbonsai.models.libraries.from_timm import configured_shape

INSTALL_HUB = "pip install huggingface_hub"
INSTALL_TRANSFORMERS = "pip install transformers"


class Hub:
    """IDs as the hub has them: owner/name."""

    classes_option = ""

    def factory(self, name: str) -> Callable[..., nn.Module]:
        """What builds the repository's network with random weights; keywords are timm's or the configuration's."""
        description = _description(name)
        return _timm_factory(name) if "architecture" in description else _transformers_factory(name, description)

    def pretrained(self, name: str) -> nn.Module:
        """With the repository's weights."""
        description = _description(name)
        with speaking(f"hf:{name} with trained weights"):
            if "architecture" in description:
                return imported("timm", INSTALL_TIMM).create_model(_timm_name(name), pretrained=True)
            return _class(name, description).from_pretrained(name)

    def structure(self, name: str) -> dict[str, Any]:
        """Nothing: weights do not change what is built."""
        return {}

    def input_shape(self, name: str, model: nn.Module) -> tuple[int, ...] | None:
        """timm's `input_size`, or `num_channels` and `image_size` of a configuration that has both."""
        if (shape := configured_shape(model)) is not None:
            return shape
        config = getattr(model, "config", None)
        side, channels = getattr(config, "image_size", None), getattr(config, "num_channels", None)
        if side is None or channels is None:
            return None
        height, width = side if isinstance(side, tuple | list) else (side, side)
        return int(channels), int(height), int(width)


def _timm_factory(name: str) -> Callable[..., nn.Module]:
    timm = imported("timm", INSTALL_TIMM)

    def make(**options: Any) -> nn.Module:
        with speaking(f"hf:{name}"):
            return timm.create_model(_timm_name(name), pretrained=False, **options)

    return make


def _transformers_factory(name: str, description: dict[str, Any]) -> Callable[..., nn.Module]:
    network = _class(name, description)

    def make(**options: Any) -> nn.Module:
        with speaking(f"hf:{name}"):
            return network(network.config_class.from_pretrained(name, **options))

    return make


def _timm_name(name: str) -> str:
    return f"local-dir:{name}" if Path(name).is_dir() else f"hf-hub:{name}"


def _description(name: str) -> dict[str, Any]:
    """config.json of the repository."""
    local = Path(name)
    if not local.is_dir():
        hub = imported("huggingface_hub", INSTALL_HUB)
        with speaking(f"hf:{name}"):
            local = Path(hub.hf_hub_download(name, "config.json")).parent
    with speaking(f"hf:{name}"):
        description = json.loads((local / "config.json").read_text())
    if isinstance(description, dict) and ("architecture" in description or "model_type" in description):
        return description
    raise _unknown(name, "a config.json without 'architecture' (timm) and 'model_type' (transformers)")


def _class(name: str, description: dict[str, Any]) -> Any:
    """The class of transformers that the repository's weights belong to."""
    transformers = imported("transformers", INSTALL_TRANSFORMERS)
    for architecture in description.get("architectures") or ():
        if (found := getattr(transformers, architecture, None)) is not None:
            return found
    raise _unknown(name, f"architectures {description.get('architectures')}, none of them in transformers")


def _unknown(name: str, got: str) -> ConfigError:
    return ConfigError(
        message(
            f"hf:{name} must be a repository of a timm or transformers network",
            got,
            "a repository of another library, or one with code of its own",
            "write a factory that builds it, and give package.module:factory",
        )
    )
