"""VGG, with or without batch norm, with a linear head (small images) or the paper's 4096-4096 head."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

from torch import Tensor, nn

from torchbonsai.core.errors import ConfigError, message
from torchbonsai.models.widths import Shape, widths_of

CONVS_PER_STAGE = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
STAGE_WIDTHS = (64, 128, 256, 512, 512)
HEAD_WIDTHS = (4096, 4096)
Head = Literal["linear", "4096"]


class VGG(nn.Module):
    """3x3 convolutions in five stages, each closed by a 2x2 max-pool, and a classifier."""

    def __init__(self, features: nn.Sequential, pool: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.pool = pool
        self.classifier = classifier
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights and biases of the convolutions anew, drawn after every module drew its own."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, classes)."""
        return self.classifier(self.pool(self.features(x)).flatten(1))


def vgg(
    in_shape: Shape,
    classes: int,
    *,
    depth: int,
    batch_norm: bool = True,
    head: Head = "linear",
    dropout: float = 0.5,
    width: float = 1.0,
    widths: Sequence[int] | None = None,
) -> VGG:
    """VGG-11/13/16/19 (Simonyan, Zisserman 2015).

    Small images: VGG-16 with batch norm and the linear head has 14,724,042 parameters and 313,201,664 MACs on
    3x32x32. ImageNet: batch_norm=False, head="4096", 3x224x224 has 138,357,544 parameters. A max-pool is left out
    where the map is a single pixel already. With batch norm the convolutions have no bias. `dropout` acts in the
    4096 head, before its last two layers. widths: the convolutions in order, then (head="4096") the two hidden layers.
    """
    if head not in ("linear", "4096"):
        raise ConfigError(
            message("head must be 'linear' or '4096'", repr(head), "a typing error", "choose one of both")
        )
    if dropout != 0.5 and head == "linear":
        raise ConfigError(message("dropout acts in head='4096' only", f"head={head!r}", "-", "leave dropout out"))
    per_stage = CONVS_PER_STAGE[depth]
    default = [n for n, count in zip(STAGE_WIDTHS, per_stage, strict=True) for _ in range(count)]
    channels = widths_of(default + (list(HEAD_WIDTHS) if head == "4096" else []), width, widths)
    convs = channels[: len(default)]
    features, (rows, columns) = _features(in_shape, convs, per_stage, batch_norm)
    if head == "linear":
        return VGG(features, nn.AdaptiveAvgPool2d(1), nn.Linear(convs[-1], classes))
    first, second = channels[len(default) :]
    return VGG(features, nn.Identity(), _deep_head(convs[-1] * rows * columns, first, second, classes, dropout))


def _features(
    in_shape: Shape, convs: Sequence[int], per_stage: Sequence[int], batch_norm: bool
) -> tuple[nn.Sequential, tuple[int, int]]:
    before, rows, columns = in_shape
    layers: list[nn.Module] = []
    remaining = iter(convs)
    for count in per_stage:
        for _ in range(count):
            after = next(remaining)
            layers.append(nn.Conv2d(before, after, 3, padding=1, bias=not batch_norm))
            layers += [nn.BatchNorm2d(after)] if batch_norm else []
            layers.append(nn.ReLU(inplace=True))
            before = after
        if min(rows, columns) > 1:
            layers.append(nn.MaxPool2d(2))
            rows, columns = rows // 2, columns // 2
    return nn.Sequential(*layers), (rows, columns)


def _deep_head(inputs: int, first: int, second: int, classes: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, first), nn.ReLU(inplace=True), nn.Dropout(dropout),
        nn.Linear(first, second), nn.ReLU(inplace=True), nn.Dropout(dropout),
        nn.Linear(second, classes),
    )  # fmt: skip


FACTORIES = {f"vgg{d}_bn": partial(vgg, depth=d) for d in CONVS_PER_STAGE} | {
    f"vgg{d}": partial(vgg, depth=d, batch_norm=False) for d in CONVS_PER_STAGE
}
