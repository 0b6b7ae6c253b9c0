"""Networks of other libraries, each optional: one file a library, `LIBRARIES` by the prefix of a MODEL string."""

from __future__ import annotations

from torchbonsai.models.libraries.base import Library
from torchbonsai.models.libraries.from_hub import Hub
from torchbonsai.models.libraries.from_timm import Timm
from torchbonsai.models.libraries.from_torchvision import Torchvision

LIBRARIES: dict[str, Library] = {"timm": Timm(), "torchvision": Torchvision(), "hf": Hub()}

__all__ = ["LIBRARIES", "Library"]
