import pytest
import torch
from torch import nn


class Net(nn.Module):
    """Parts by name, and a forward given as a function of (self, *inputs); weights from a fixed seed; eval mode."""

    def __init__(self, forward, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.run = forward
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
        self.eval()

    def forward(self, *args, **kwargs):
        return self.run(self, *args, **kwargs)


@pytest.fixture
def net():
    return Net


@pytest.fixture
def around():
    """A convolution to `channels`, `op(self, x)`, a convolution that reads what comes out (pictures of 8x8)."""

    def make(op, channels=12, **parts):
        probe = Net(op, **parts)
        out = probe.double()(torch.zeros(2, channels, 8, 8, dtype=torch.float64))
        probe.float()
        before, after = nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(out.shape[1], 5, 1)
        return Net(lambda self, x: self.after(op(self, self.before(x))), before=before, **parts, after=after)

    return make


@pytest.fixture
def pictures():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5))
