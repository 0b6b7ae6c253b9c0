"""LeNet with Caffe's widths."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from torchbonsai.core.errors import ConfigError, message
from torchbonsai.models.widths import Shape, widths_of

WIDTHS = (20, 50, 500)


class LeNet(nn.Module):
    """Two 5x5 convolutions, each with ReLU and 2x2 max-pool, then two linear layers."""

    def __init__(self, in_shape: Shape, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        c, h, w = in_shape
        first, second, hidden = widths
        padding = 2 if min(h, w) < 16 else 0
        rows, columns = (_size_after(n, padding) for n in (h, w))
        if min(rows, columns) < 1:
            raise ConfigError(
                message("LeNet needs images of at least 4x4", f"{h}x{w}", "a wrong in_shape", "give (channels, h, w)")
            )
        self.conv1 = nn.Conv2d(c, first, 5, padding=padding)
        self.conv2 = nn.Conv2d(first, second, 5, padding=padding)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(second * rows * columns, hidden)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, classes)."""
        x = self.pool(self.conv1(x).relu())
        x = self.pool(self.conv2(x).relu())
        return self.fc2(self.fc1(x.flatten(1)).relu())


def _size_after(size: int, padding: int) -> int:
    for _ in range(2):
        size = (size + 2 * padding - 4) // 2
    return size


def lenet(in_shape: Shape, classes: int, *, width: float = 1.0, widths: Sequence[int] | None = None) -> LeNet:
    """LeNet 20-50-500 (Caffe's version of LeCun et al. 1998), a ReLU after *every* hidden layer (Caffe has one only).

    431,080 parameters on 1x28x28. Below 16 pixels two unpadded 5x5 convolutions leave nothing, so there they are
    padded by 2: on 1x14x14 the last map is 3x3. widths: conv1, conv2, fc1.
    """
    return LeNet(in_shape, widths_of(WIDTHS, width, widths), classes)
