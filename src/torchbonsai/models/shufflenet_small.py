"""A network with the two things that break naive channel removal: a channel shuffle and a hard-coded view.

Both put a width into Python code, where surgery cannot edit it: the shuffle computes with the number of channels it
is given, the view before the classifier names it as a literal.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchbonsai.core.errors import ConfigError, message
from torchbonsai.models.widths import Shape, scaled, widths_of

WIDTHS = (24, 64, 128)
BLOCKS = (3, 3)
LAST = 64  # in the forward as a literal, so that it takes part in no width multiple


def _conv(before: int, after: int, size: int, stride: int = 1, groups: int = 1, relu: bool = True) -> nn.Sequential:
    conv = nn.Conv2d(before, after, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), *([nn.ReLU()] if relu else []))


def _branch(before: int, after: int, stride: int) -> nn.Sequential:
    depthwise = _conv(after, after, 3, stride, groups=after, relu=False)
    return nn.Sequential(_conv(before, after, 1), depthwise, _conv(after, after, 1))


def channel_shuffle(x: Tensor) -> Tensor:
    """(n, c, h, w), c even: channels 0, c/2, 1, c/2 + 1, …"""
    b, c, h, w = x.shape
    return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


class ShuffleUnit(nn.Module):
    """One half of the channels passes, the other is convolved; then both are shuffled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = _branch(channels // 2, channels // 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> the same shape."""
        passed, convolved = x.chunk(2, dim=1)
        return channel_shuffle(torch.cat([passed, self.branch(convolved)], 1))


class DownUnit(nn.Module):
    """Both branches are convolved with stride 2."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first = nn.Sequential(_conv(before, before, 3, 2, groups=before, relu=False), _conv(before, after // 2, 1))
        self.second = _branch(before, after // 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(n, before, h, w) -> (n, after, h / 2, w / 2)."""
        return channel_shuffle(torch.cat([self.first(x), self.second(x)], 1))


class ShuffleNetSmall(nn.Module):
    """A 3x3 convolution of stride 2, two stages of shuffle units, a 1x1 convolution to 64, one linear layer."""

    def __init__(self, channels: int, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        before, *stages = widths
        self.stem = _conv(channels, before, 3, 2)
        units: list[nn.Module] = []
        for after, blocks in zip(stages, BLOCKS, strict=True):
            units += [DownUnit(before, after), *(ShuffleUnit(after) for _ in range(blocks))]
            before = after
        self.stages = nn.Sequential(*units)
        self.last = _conv(before, LAST, 1)
        self.classifier = nn.Linear(LAST * 4 * 4, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, 32, 32) -> (n, classes)."""
        x = self.last(self.stages(self.stem(x)))
        x = x.view(-1, 64 * 4 * 4)
        return self.classifier(x)


def shufflenet_small(
    in_shape: Shape, classes: int, *, width: float = 1.0, widths: Sequence[int] | None = None
) -> ShuffleNetSmall:
    """After ShuffleNet v2 (Ma et al. 2018), for images of 25 to 32 pixels (4x4 maps at the end).

    widths: the stem and both stages, these even. The last convolution stays at 64 channels, since the forward's view
    says so.
    """
    if not all(25 <= n <= 32 for n in in_shape[1:]):
        raise ConfigError(
            message(
                "shufflenet_small needs images of 25 to 32 pixels", f"{in_shape}", "its fixed view", "use another model"
            )
        )
    default = (scaled(WIDTHS[0], width), *(2 * scaled(n // 2, width) for n in WIDTHS[1:]))
    channels = widths_of(default, 1.0, widths)
    if any(n % 2 for n in channels[1:]):
        raise ConfigError(
            message("the widths of both stages must be even", f"{channels}", "the halves", "use even ones")
        )
    return ShuffleNetSmall(in_shape[0], channels, classes)
