import pytest
import torch
from torch import nn
from torch.nn import functional as F


class Mixed(nn.Module):
    """A residual stream, a norm, a depthwise layer, a tied weight, a buffer along channels, a frozen layer, a head."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner, self.back = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.left, self.right = nn.Conv2d(8, 7, 1), nn.Conv2d(8, 7, 1)
        self.right.weight = self.left.weight
        self.head = nn.Linear(7, 4)
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 8).reshape(8, 1, 1))

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = x + self.back(F.relu(self.inner(x)))
        x = self.deep(x) * self.scale
        return self.head(F.relu(self.left(x) + self.right(F.relu(x))).mean((2, 3)))


@pytest.fixture
def mixed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Mixed()
        model.norm.running_mean.normal_()
        model.norm.running_var.uniform_(0.5, 1.5)
        return model.eval()


@pytest.fixture
def pictures():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def x():
    return torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))
