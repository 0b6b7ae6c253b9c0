"""ResNet for small images: 20, 32, 44, 56 and 110 layers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from torchbonsai.core.errors import ConfigError, message
from torchbonsai.models.widths import Shape, positive, scaled

STAGE_WIDTHS = (16, 32, 64)
DEPTHS = (20, 32, 44, 56, 110)
Shortcut = Literal["A", "B"]


class PadShortcut(nn.Module):
    """Option A: every stride-th pixel, and `before` and `after` channels of zeros around the input's."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.before = before
        self.after = after
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, before + c + after, h / stride, w / stride)."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))

    def extra_repr(self) -> str:
        """What the module's repr shows."""
        return f"before={self.before}, after={self.after}, stride={self.stride}"


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to the shortcut."""

    def __init__(self, before: int, inner: int, after: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, inner, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut = _shortcut(before, after, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """(n, before, h, w) -> (n, after, h / stride, w / stride)."""
        out = self.bn1(self.conv1(x)).relu()
        out = self.bn2(self.conv2(out)) + self.shortcut(x)
        return out.relu()


def _shortcut(before: int, after: int, stride: int, option: Shortcut) -> nn.Module:
    if stride == 1 and before == after:
        return nn.Sequential()
    if option == "B":
        return nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))
    if after < before:
        raise ConfigError(
            message(
                "with shortcut A, which pads with zeros, a stage must be at least as wide as the one before",
                f"{before} -> {after} channels",
                "an explicit list of widths that falls",
                "use shortcut B, or widths that do not fall",
            )
        )
    extra = after - before
    return PadShortcut(extra // 2, extra - extra // 2, stride)


class ResNet(nn.Module):
    """A 3x3 convolution, three stages of basic blocks, global mean, one linear layer."""

    def __init__(
        self, channels: int, classes: int, stages: Sequence[int], inner: Sequence[int], shortcut: Shortcut
    ) -> None:
        super().__init__()
        blocks = len(inner) // 3
        first, second, third = stages
        self.conv1 = nn.Conv2d(channels, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = _stage(first, first, inner[:blocks], 1, shortcut)
        self.layer2 = _stage(first, second, inner[blocks : 2 * blocks], 2, shortcut)
        self.layer3 = _stage(second, third, inner[2 * blocks :], 2, shortcut)
        self.linear = nn.Linear(third, classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights of convolutions and of the linear layer anew, drawn after every module drew its own."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, classes)."""
        x = self.bn1(self.conv1(x)).relu()
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def _stage(before: int, after: int, inner: Sequence[int], stride: int, shortcut: Shortcut) -> nn.Sequential:
    first = BasicBlock(before, inner[0], after, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(after, n, after, 1, shortcut) for n in inner[1:]))


def resnet(
    in_shape: Shape,
    classes: int,
    *,
    depth: int,
    shortcut: Shortcut = "A",
    width: float = 1.0,
    widths: Sequence[int] | None = None,
) -> ResNet:
    """ResNet-20/32/44/56/110 for small images (He et al. 2016, section 4.2).

    Names of the parameters as in akamaster/pytorch_resnet_cifar10, whose trained weights load strictly. ResNet-56
    with shortcut A, ten classes: 853,018 parameters, 125.49 M MACs on 3x32x32. shortcut: "A" (zero channels), "B"
    (1x1 convolutions where the size changes). widths: the three stages, or the three stages and then the inner
    width of each block.
    """
    if shortcut not in ("A", "B"):
        raise ConfigError(
            message("shortcut must be 'A' or 'B'", repr(shortcut), "a typing error", "choose one of both")
        )
    blocks = (depth - 2) // 6
    stages, inner = _widths(blocks, width, widths)
    return ResNet(in_shape[0], classes, stages, inner, shortcut)


def _widths(blocks: int, width: float, widths: Sequence[int] | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    stages = tuple(scaled(n, width) for n in STAGE_WIDTHS) if widths is None else positive(widths)
    if len(stages) == 3 + 3 * blocks:
        return stages[:3], stages[3:]
    if len(stages) != 3:
        raise ConfigError(
            message(
                f"widths must name 3 stages, or 3 stages and {3 * blocks} inner widths",
                f"{len(stages)} numbers",
                "a list made for another depth",
                "count again, or use width=",
            )
        )
    return stages, tuple(n for n in stages for _ in range(blocks))


FACTORIES = {f"resnet{depth}": partial(resnet, depth=depth) for depth in DEPTHS}
