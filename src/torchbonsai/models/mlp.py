"""Multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from torchbonsai.models.widths import Shape, positive, scaled

HIDDEN = (300, 100)


class MLP(nn.Module):
    """Flattened image, hidden layers with ReLU, one linear layer to the classes."""

    def __init__(self, inputs: int, hidden: Sequence[int], classes: int) -> None:
        super().__init__()
        sizes = (inputs, *hidden)
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(sizes[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, classes)."""
        return self.head(self.body(x.flatten(1)))


def mlp(in_shape: Shape, classes: int, *, width: float = 1.0, widths: Sequence[int] | None = None) -> MLP:
    """784-300-100-10 on 28x28 (LeCun et al. 1998, "LeNet-300-100"): 266,610 parameters.

    widths: the hidden layers, as many as wanted.
    """
    hidden = tuple(scaled(n, width) for n in HIDDEN) if widths is None else positive(widths)
    c, h, w = in_shape
    return MLP(c * h * w, hidden, classes)
