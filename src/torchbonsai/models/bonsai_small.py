"""The demo's network: small enough that capacity is what limits it on the embedded data."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from torchbonsai.models.widths import Shape, widths_of

WIDTHS = (16, 16, 32, 32)


def _conv(before: int, after: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]


class BonsaiSmall(nn.Module):
    """Four 3x3 convolutions with batch norm and ReLU, a 2x2 max-pool after the second and the fourth."""

    def __init__(self, channels: int, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        a, b, c, d = widths
        self.features = nn.Sequential(
            *_conv(channels, a), *_conv(a, b), nn.MaxPool2d(2), *_conv(b, c), *_conv(c, d), nn.MaxPool2d(2)
        )
        self.head = nn.Linear(d, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, classes); h and w at least 4."""
        return self.head(self.features(x).mean((2, 3)))


def bonsai_small(
    in_shape: Shape, classes: int, *, width: float = 1.0, widths: Sequence[int] | None = None
) -> BonsaiSmall:
    """16-16-32-32 channels: 1.16 M MACs on 1x14x14. widths: the four convolutions."""
    return BonsaiSmall(in_shape[0], widths_of(WIDTHS, width, widths), classes)
