"""DenseNet for small images: every layer reads all maps before it in its block."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from torchbonsai.models.widths import Shape, widths_of


class DenseLayer(nn.Module):
    """Norm, ReLU, 3x3 convolution; with a bottleneck, norm, ReLU and a 1x1 convolution to 4 growth before it."""

    def __init__(self, before: int, growth: int, bottleneck: bool) -> None:
        super().__init__()
        inner = 4 * growth if bottleneck else before
        first = [nn.BatchNorm2d(before), nn.ReLU(), nn.Conv2d(before, inner, 1, bias=False)] if bottleneck else []
        last = [nn.BatchNorm2d(inner), nn.ReLU(), nn.Conv2d(inner, growth, 3, padding=1, bias=False)]
        self.layers = nn.Sequential(*first, *last)

    def forward(self, x: Tensor) -> Tensor:
        """(n, before, h, w) -> (n, before + growth, h, w)."""
        return torch.cat([x, self.layers(x)], 1)


class DenseNet(nn.Module):
    """A 3x3 convolution, three dense blocks with transitions between them, norm, ReLU, global mean, linear."""

    def __init__(
        self, channels: int, classes: int, widths: Sequence[int], layers: int, bottleneck: bool, compression: float
    ) -> None:
        super().__init__()
        stem, *growths = widths
        self.stem = nn.Conv2d(channels, stem, 3, padding=1, bias=False)
        parts: list[nn.Module] = []
        before = stem
        for number, growth in enumerate(growths):
            parts += [DenseLayer(before + i * growth, growth, bottleneck) for i in range(layers)]
            before += layers * growth
            if number < len(growths) - 1:
                after = max(1, int(before * compression))
                parts.append(_transition(before, after))
                before = after
        self.blocks = nn.Sequential(*parts, nn.BatchNorm2d(before), nn.ReLU())
        self.head = nn.Linear(before, classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights of the convolutions anew, drawn after every module drew its own."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, classes)."""
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def _transition(before: int, after: int) -> nn.Sequential:
    conv = nn.Conv2d(before, after, 1, bias=False)
    return nn.Sequential(nn.BatchNorm2d(before), nn.ReLU(), conv, nn.AvgPool2d(2))


def densenet(
    in_shape: Shape,
    classes: int,
    *,
    depth: int,
    bottleneck: bool = False,
    growth: int = 12,
    width: float = 1.0,
    widths: Sequence[int] | None = None,
) -> DenseNet:
    """DenseNet (Huang et al. 2017, section 4.2): L = 40, k = 12, and DenseNet-BC L = 100, k = 12.

    Ten classes, 3x32x32: densenet40 has 1,019,722 parameters, densenet_bc100 769,162. BC (bottleneck): 1x1
    convolutions to 4 k before each 3x3, and transitions that halve the maps. widths: the stem, and the growth of
    each of the three blocks.
    """
    layers = (depth - 4) // (6 if bottleneck else 3)
    stem = 2 * growth if bottleneck else 16
    channels = widths_of((stem, growth, growth, growth), width, widths)
    return DenseNet(in_shape[0], classes, channels, layers, bottleneck, 0.5 if bottleneck else 1.0)


FACTORIES = {
    "densenet40": partial(densenet, depth=40),
    "densenet_bc100": partial(densenet, depth=100, bottleneck=True),
}
