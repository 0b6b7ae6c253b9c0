"""Channels that are moved, cut, regrouped, or written by position."""

from __future__ import annotations

from random import Random

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchbonsai.testing.hazards.base import SIZE, Hazard, conv, to_multiple


class Split(Hazard):
    """Parts of literal sizes, kept in an attribute, each with a layer of its own."""

    def __init__(self, channels: int, random: Random) -> None:
        super().__init__(channels, random)
        first = random.randint(1, channels - 1)
        self.sizes = [first, channels - first]
        self.left, self.right = conv(first, random.randint(2, 5)), conv(channels - first, channels - first)
        self.out = self.left.out_channels + channels - first

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.split(x, self.sizes, 1)
        return torch.cat([self.left(F.relu(a)), b + self.right(b)], 1)


class Chunk(Hazard):
    """Equal parts, as many as the code says."""

    def __init__(self, channels: int, random: Random) -> None:
        super().__init__(channels, random)
        self.parts = random.choice((2, 3))
        self.enter, wide = to_multiple(channels, self.parts)
        self.body = conv(wide // self.parts, random.randint(2, 5))
        self.out = self.body.out_channels + wide - wide // self.parts

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.enter(x).chunk(self.parts, 1)
        return torch.cat([self.body(F.relu(first)), *others], 1)


class ChannelShuffle(Hazard):
    """Channels 0, c/2, 1, c/2 + 1, …, by view and transpose."""

    def __init__(self, channels: int, random: Random) -> None:
        super().__init__(channels, random)
        self.groups = random.choice((2, 3))
        self.enter, self.out = to_multiple(channels, self.groups)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        n, c, h, w = x.shape
        return x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class Flatten(Hazard):
    """A linear layer that reads every pixel of every channel."""

    def __init__(self, channels: int, random: Random) -> None:
        super().__init__(channels, random)
        self.out = random.randint(3, 6)
        self.linear = nn.Linear(channels * SIZE * SIZE, self.out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.linear(torch.flatten(x, 1)))[:, :, None, None].expand(-1, -1, SIZE, SIZE)


class Permute(Hazard):
    """Channels last for a linear layer, and back."""

    def __init__(self, channels: int, random: Random) -> None:
        super().__init__(channels, random)
        self.out = random.randint(3, 7)
        self.linear = nn.Linear(channels, self.out)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.linear(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class Roll(Hazard):
    """Channels move on by one."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.roll(x, 1, 1)


class Flip(Hazard):
    """The last channel comes first."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(1)


class PixelShuffle(Hazard):
    """Four channels become one of twice the height and width."""

    def __init__(self, channels: int, random: Random) -> None:
        super().__init__(channels, random)
        self.out = random.randint(2, 5)
        self.body = conv(channels, 4 * self.out)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(F.pixel_shuffle(self.body(x), 2), 2)


class SpaceToDepth(Hazard):
    """Every second row and column, four times, as channels (a Focus stem)."""

    def __init__(self, channels: int, random: Random) -> None:
        super().__init__(channels, random)
        self.out = random.randint(3, 6)
        self.body = conv(4 * channels, self.out)

    def forward(self, x: Tensor) -> Tensor:
        parts = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
        return F.interpolate(self.body(torch.cat(parts, 1)), scale_factor=2)


class ConstantGather(Hazard):
    """Channels in an order that a buffer holds."""

    places: Tensor

    def __init__(self, channels: int, random: Random) -> None:
        super().__init__(channels, random)
        order = list(range(channels))
        random.shuffle(order)
        self.register_buffer("places", torch.tensor(order))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.places]


class Glu(Hazard):
    """Half of the channels gate the other half."""

    def __init__(self, channels: int, random: Random) -> None:
        super().__init__(channels, random)
        self.out = random.randint(3, 6)
        self.body = conv(channels, 2 * self.out)

    def forward(self, x: Tensor) -> Tensor:
        return F.glu(self.body(x), 1)


class SlicesAssigned(Hazard):
    """A tensor of zeros, filled part by part."""

    def __init__(self, channels: int, random: Random) -> None:
        super().__init__(channels, random)
        self.part = random.randint(1, channels - 1)
        self.body = conv(channels, self.part)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        y[:, : self.part] = self.body(x)
        y[:, self.part :] = F.relu(x[:, self.part :])
        return y


class TemporalShift(Hazard):
    """A part of the channels is read from the frame before; frames are pairs along the batch."""

    def __init__(self, channels: int, random: Random) -> None:
        super().__init__(channels, random)
        self.share = random.choice((2, 4))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        fold = c // self.share
        frames = x.view(n // 2, 2, c, h, w)
        shifted = torch.zeros_like(frames)
        shifted[:, 1:, :fold] = frames[:, :-1, :fold]
        shifted[:, :, fold:] = frames[:, :, fold:]
        return shifted.view(n, c, h, w)
