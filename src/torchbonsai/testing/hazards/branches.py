"""Streams that part and meet, gates, and code that runs in one mode or at one width only."""

from __future__ import annotations

from random import Random

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchbonsai.testing.hazards.base import Hazard, conv


class Residual(Hazard):
    """x + f(x)."""

    def __init__(self, channels: int, random: Random) -> None:
        super().__init__(channels, random)
        inner = random.randint(2, 7)
        self.first, self.norm = conv(channels, inner, bias=False), nn.BatchNorm2d(inner)
        self.second = conv(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu(self.norm(self.first(x)))))


class DenseConcat(Hazard):
    """Every layer reads all maps before it."""

    def __init__(self, channels: int, random: Random) -> None:
        super().__init__(channels, random)
        growths = [random.randint(2, 5) for _ in range(random.randint(1, 2))]
        self.layers = nn.ModuleList(conv(channels + sum(growths[:k]), g) for k, g in enumerate(growths))
        self.out = channels + sum(growths)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(F.relu(x))], 1)
        return x


class SqueezeExcite(Hazard):
    """Channels are multiplied by a gate computed from their means."""

    def __init__(self, channels: int, random: Random) -> None:
        super().__init__(channels, random)
        inner = random.randint(2, 5)
        self.down, self.up = nn.Linear(channels, inner), nn.Linear(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


class ChannelAndSpatialAttention(Hazard):
    """CBAM: a gate a channel from mean and maximum, then a gate a pixel from mean and maximum over channels."""

    def __init__(self, channels: int, random: Random) -> None:
        super().__init__(channels, random)
        self.mlp = nn.Sequential(conv(channels, 3, 1), nn.ReLU(), conv(3, channels, 1))
        self.spatial = conv(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.sigmoid(self.mlp(x.mean((2, 3), keepdim=True)) + self.mlp(x.amax((2, 3), keepdim=True)))
        summary = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True).values], 1)
        return x * torch.sigmoid(self.spatial(summary))


class LayerScale(Hazard):
    """x + gamma * f(x), gamma nearly zero at the start."""

    def __init__(self, channels: int, random: Random) -> None:
        super().__init__(channels, random)
        self.body = conv(channels, channels)
        self.gamma = nn.Parameter(torch.full((channels, 1, 1), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gamma * F.gelu(self.body(x))


class PaddedChannels(Hazard):
    """A shortcut that pads with channels of zeros, by attributes."""

    def __init__(self, channels: int, random: Random) -> None:
        super().__init__(channels, random)
        self.before, self.after = random.randint(0, 3), random.randint(1, 3)
        self.out = self.before + channels + self.after
        self.body = conv(channels, self.out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + F.pad(x, (0, 0, 0, 0, self.before, self.after)))


class RepVGG(Hazard):
    """Three branches that a deployed network folds into one: 3x3, 1x1 and the identity, each with a norm."""

    def __init__(self, channels: int, random: Random) -> None:
        super().__init__(channels, random)
        self.wide = nn.Sequential(conv(channels, channels, bias=False), nn.BatchNorm2d(channels))
        self.point = nn.Sequential(conv(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.same = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.wide(x) + self.point(x) + self.same(x))


class AuxiliaryHead(Hazard):
    """In training there is a second output."""

    def __init__(self, channels: int, random: Random) -> None:
        super().__init__(channels, random)
        inner = random.randint(2, 5)
        self.body, self.aux, self.head = conv(channels, channels), conv(channels, inner), nn.Linear(inner, 3)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if self.training:
            return F.relu(self.body(x)), self.head(F.relu(self.aux(x)).mean((2, 3)))
        return F.relu(self.body(x))


class WidthBranch(Hazard):
    """Which op runs depends on the number of channels."""

    def __init__(self, channels: int, random: Random) -> None:
        super().__init__(channels, random)
        self.threshold = random.choice((2, channels - 1, channels))
        self.body = conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return F.relu(x) if x.shape[1] > self.threshold else torch.tanh(x)
