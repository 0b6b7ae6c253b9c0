"""MobileNet v2, with strides for small images or for ImageNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from torchbonsai.core.errors import ConfigError, message
from torchbonsai.models.widths import Shape, widths_of

EXPANSION = (1, 6, 6, 6, 6, 6, 6)
BLOCKS = (1, 2, 3, 4, 3, 3, 1)
WIDTHS = (32, 16, 24, 32, 64, 96, 160, 320, 1280)
STRIDES = {"small": (1, 1, 1, 2, 2, 1, 2, 1), "imagenet": (2, 1, 2, 2, 2, 1, 2, 1)}
Strides = Literal["small", "imagenet"]


def _conv(before: int, after: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(before, after, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 projection without activation; added to its input where the shapes allow."""

    def __init__(self, before: int, after: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = before * expansion
        layers = [] if expansion == 1 else [_conv(before, inner, 1)]
        layers += [_conv(inner, inner, 3, stride, groups=inner)]
        self.conv = nn.Sequential(*layers, nn.Conv2d(inner, after, 1, bias=False), nn.BatchNorm2d(after))
        self.residual = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        """(n, before, h, w) -> (n, after, h / stride, w / stride)."""
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """A 3x3 convolution, seven stages of inverted residuals, a 1x1 convolution, global mean, one linear layer."""

    def __init__(
        self, channels: int, widths: Sequence[int], strides: Sequence[int], classes: int, dropout: float
    ) -> None:
        super().__init__()
        stem, *stages, last = widths
        layers: list[nn.Module] = [_conv(channels, stem, 3, strides[0])]
        before = stem
        for after, blocks, stride, expansion in zip(stages, BLOCKS, strides[1:], EXPANSION, strict=True):
            for number in range(blocks):
                layers.append(InvertedResidual(before, after, stride if number == 0 else 1, expansion))
                before = after
        self.features = nn.Sequential(*layers, _conv(before, last, 1))
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last, classes))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights of the convolutions anew, drawn after every module drew its own."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, classes)."""
        return self.classifier(self.features(x).mean((2, 3)))


def mobilenet_v2(
    in_shape: Shape,
    classes: int,
    *,
    strides: Strides = "small",
    dropout: float = 0.0,
    width: float = 1.0,
    widths: Sequence[int] | None = None,
) -> MobileNetV2:
    """MobileNet v2 (Sandler et al. 2018), names of the parameters as in torchvision.

    strides: "small" reduces 8 times in all (4x4 maps at the end on 32x32), "imagenet" 32 times; with the latter,
    1,000 classes: 3,504,872 parameters. dropout: before the classifier (ImageNet: 0.2). widths: the stem, seven
    stages, the last 1x1 convolution; a width that equals its neighbour's makes the first block of a stage residual,
    where its stride is 1.
    """
    if strides not in STRIDES:
        raise ConfigError(
            message("strides must be 'small' or 'imagenet'", repr(strides), "a typing error", "choose one")
        )
    return MobileNetV2(in_shape[0], widths_of(WIDTHS, width, widths), STRIDES[strides], classes, dropout)
