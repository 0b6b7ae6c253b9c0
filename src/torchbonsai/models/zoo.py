"""The zoo: name -> factory(in_shape, classes, *, width, widths, ...)."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from torchbonsai.models import resnet, vgg
from torchbonsai.models.bonsai_small import bonsai_small
from torchbonsai.models.lenet import lenet
from torchbonsai.models.mlp import mlp

ZOO: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "lenet": lenet,
    "bonsai_small": bonsai_small,
    **vgg.FACTORIES,
    **resnet.FACTORIES,
}
