"""Weights that are used twice, in groups, or the other way round."""

from __future__ import annotations

from random import Random

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchbonsai.testing.hazards.base import Hazard, conv, to_multiple


class Depthwise(Hazard):
    """A convolution a channel, with one or two outputs each."""

    def __init__(self, channels: int, random: Random) -> None:
        super().__init__(channels, random)
        self.out = channels * random.choice((1, 2))
        self.body, self.norm = conv(channels, self.out, groups=channels), nn.BatchNorm2d(self.out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(self.norm(self.body(x)))


class Grouped(Hazard):
    """A convolution in two or three groups."""

    def __init__(self, channels: int, random: Random) -> None:
        super().__init__(channels, random)
        groups = random.choice((2, 3))
        self.enter, wide = to_multiple(channels, groups)
        self.out = groups * random.randint(1, 3)
        self.body = conv(wide, self.out, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(F.relu(self.enter(x)))


class Transposed(Hazard):
    """Twice the size by a transposed convolution, plain or depthwise, and back by pooling."""

    def __init__(self, channels: int, random: Random) -> None:
        super().__init__(channels, random)
        groups = random.choice((1, channels))
        self.out = channels if groups > 1 else random.randint(3, 6)
        self.body = nn.ConvTranspose2d(channels, self.out, 2, stride=2, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.body(x)), 2)


class SharedConvolution(Hazard):
    """One module, called twice."""

    def __init__(self, channels: int, random: Random) -> None:
        super().__init__(channels, random)
        self.body = conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(F.relu(self.body(x)))


class TiedTransposed(Hazard):
    """An auto-encoder: the convolution's weight is the transposed convolution's too."""

    def __init__(self, channels: int, random: Random) -> None:
        super().__init__(channels, random)
        self.weight = nn.Parameter(torch.randn(random.randint(3, 6), channels, 3, 3) * 0.2)
        self.bias = nn.Parameter(torch.zeros(self.weight.shape[0]))

    def forward(self, x: Tensor) -> Tensor:
        code = F.relu(F.conv2d(x, self.weight, self.bias, padding=1))
        return F.conv_transpose2d(code, self.weight, padding=1)
