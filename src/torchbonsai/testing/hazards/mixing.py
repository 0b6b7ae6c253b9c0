"""Activations that meet activations, sums over channels, and widths or places used as values."""

from __future__ import annotations

from random import Random

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchbonsai.testing.hazards.base import SIZE, Hazard, conv


class NonLocal(Hazard):
    """Pixels attend to pixels: two products of activations, one of them over channels."""

    def __init__(self, channels: int, random: Random) -> None:
        super().__init__(channels, random)
        inner, self.out = random.randint(2, 5), random.randint(3, 6)
        self.query, self.key, self.value = conv(channels, inner, 1), conv(channels, inner, 1), conv(channels, self.out)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        weights = torch.softmax(torch.bmm(q.transpose(1, 2), k), -1)
        return torch.bmm(v, weights.transpose(1, 2)).reshape(x.shape[0], -1, SIZE, SIZE)


class BilinearPooling(Hazard):
    """Every channel of one branch times every channel of another, summed over pixels, then a linear layer."""

    def __init__(self, channels: int, random: Random) -> None:
        super().__init__(channels, random)
        left, right, self.out = random.randint(2, 4), random.randint(2, 4), random.randint(3, 5)
        self.left, self.right = conv(channels, left), conv(channels, right)
        self.linear = nn.Linear(left * right, self.out)

    def forward(self, x: Tensor) -> Tensor:
        a, b = F.relu(self.left(x)).flatten(2), F.relu(self.right(x)).flatten(2)
        gram = torch.einsum("nip,njp->nij", a, b) / (SIZE * SIZE)
        return self.linear(gram.flatten(1))[:, :, None, None].expand(-1, -1, SIZE, SIZE)


class SumOverChannels(Hazard):
    """A gate a pixel from the sum of all channels."""

    def __init__(self, channels: int, random: Random) -> None:
        super().__init__(channels, random)
        self.body = conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * torch.sigmoid(F.relu(x).sum(1, keepdim=True))


class CumulativeSum(Hazard):
    """The shape of the input, and yet every channel reads all channels before it."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x.cumsum(1))


class WidthAsValue(Hazard):
    """The number of channels as a number: a mean written as a sum."""

    def __init__(self, channels: int, random: Random) -> None:
        super().__init__(channels, random)
        self.body = conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) / x.shape[1]


class PositionEmbedding(Hazard):
    """A learned picture is added, then tokens and back."""

    def __init__(self, channels: int, random: Random) -> None:
        super().__init__(channels, random)
        self.out = random.randint(3, 6)
        self.place = nn.Parameter(torch.randn(1, SIZE * SIZE, channels))
        self.mix = nn.Linear(channels, self.out)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.mix(F.relu(x.flatten(2).transpose(1, 2) + self.place))
        return tokens.transpose(1, 2).reshape(x.shape[0], -1, SIZE, SIZE)


class LearnedOffsets(Hazard):
    """Every pixel is read where a convolution says."""

    grid: Tensor

    def __init__(self, channels: int, random: Random) -> None:
        super().__init__(channels, random)
        self.offsets = conv(channels, 2)
        line = torch.linspace(-1, 1, SIZE)
        self.register_buffer("grid", torch.stack(torch.meshgrid(line, line, indexing="xy"), -1))

    def forward(self, x: Tensor) -> Tensor:
        grid = self.grid + 0.1 * torch.tanh(self.offsets(x)).permute(0, 2, 3, 1)
        return F.grid_sample(x, grid, padding_mode="border", align_corners=True)
