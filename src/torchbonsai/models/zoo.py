"""The zoo: name -> factory(in_shape, classes, *, width, widths, ...)."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from torchbonsai.models import densenet, resnet, vgg
from torchbonsai.models.bonsai_small import bonsai_small
from torchbonsai.models.lenet import lenet
from torchbonsai.models.mlp import mlp
from torchbonsai.models.mobilenet_v2 import mobilenet_v2
from torchbonsai.models.shufflenet_small import shufflenet_small

ZOO: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "lenet": lenet,
    "bonsai_small": bonsai_small,
    **vgg.FACTORIES,
    **resnet.FACTORIES,
    "mobilenet_v2": mobilenet_v2,
    **densenet.FACTORIES,
    "shufflenet_small": shufflenet_small,
}

IN_SHAPES: dict[str, tuple[int, int, int]] = {"mlp": (1, 28, 28), "lenet": (1, 28, 28), "bonsai_small": (1, 14, 14)}
"""The pictures that a network was made for, where they are not 3x32x32."""
