"""Networks of other tasks than classification: several outputs, concats across scales, boxes decoded in the forward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torchbonsai as tb


def conv(a: int, b: int, k: int = 3, s: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(a, b, k, s, k // 2, bias=False), nn.BatchNorm2d(b), nn.SiLU())


class UNet(nn.Module):
    """Two scales down, two up, skips by concatenation, transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.d1, self.d2, self.mid = conv(3, 8), conv(8, 12), conv(12, 20)
        self.u2, self.c2 = nn.ConvTranspose2d(20, 12, 2, 2), conv(24, 12)
        self.u1, self.c1 = nn.ConvTranspose2d(12, 8, 2, 2), conv(16, 8)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.d1(x)
        b = self.d2(F.max_pool2d(a, 2))
        y = self.u2(self.mid(F.max_pool2d(b, 2)))
        y = self.u1(self.c2(torch.cat([b, y], 1)))
        return self.out(self.c1(torch.cat([a, y], 1)))


class SuperResolution(nn.Module):
    """Pixel shuffle and an image-to-image residual: the output must keep its three channels."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body, self.up = nn.Conv2d(3, 10, 3, 1, 1), conv(10, 10), nn.Conv2d(10, 12 * 4, 3, 1, 1)
        self.shuffle, self.tail, self.refine = nn.PixelShuffle(2), nn.Conv2d(12, 3, 3, 1, 1), nn.Conv2d(3, 3, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(x)
        y = self.tail(self.shuffle(self.up(y + self.body(y)))) + F.interpolate(x, scale_factor=2.0)
        return y + self.refine(y)


class C2f(nn.Module):
    """YOLO's split block: chunk, a chain of bottlenecks, everything concatenated."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.c = b // 2
        self.cv1, self.cv2 = conv(a, b, 1), conv(3 * self.c, b, 1)
        self.m = nn.Sequential(conv(self.c, self.c), conv(self.c, self.c))

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).chunk(2, 1))
        y.append(y[-1] + self.m(y[-1]))
        return self.cv2(torch.cat(y, 1))


class SPPF(nn.Module):
    def __init__(self, a: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = conv(a, a // 2, 1), conv(a * 2, a, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        y = F.max_pool2d(x, 5, 1, 2)
        z = F.max_pool2d(y, 5, 1, 2)
        return self.cv2(torch.cat([x, y, z, F.max_pool2d(z, 5, 1, 2)], 1))


class YOLO(nn.Module):
    """A YOLO-type detector: backbone, FPN and PAN, three heads, boxes decoded in eval mode."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.no, self.reg = classes + 4 * 8, 8
        self.stem, self.b3 = conv(3, 8, 3, 2), nn.Sequential(conv(8, 16, 3, 2), C2f(16, 16))
        self.b4 = nn.Sequential(conv(16, 24, 3, 2), C2f(24, 24))
        self.b5 = nn.Sequential(conv(24, 32, 3, 2), C2f(32, 32), SPPF(32))
        self.f4, self.f3 = C2f(56, 24), C2f(40, 16)
        self.down3, self.p4 = conv(16, 16, 3, 2), C2f(40, 24)
        self.down4, self.p5 = conv(24, 24, 3, 2), C2f(56, 32)
        self.box = nn.ModuleList(nn.Sequential(conv(c, 16), nn.Conv2d(16, 32, 1)) for c in (16, 24, 32))
        self.cls = nn.ModuleList(nn.Sequential(conv(c, 16), nn.Conv2d(16, classes, 1)) for c in (16, 24, 32))
        self.register_buffer("bins", torch.arange(8.0))

    def forward(self, x: Tensor) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        c3 = self.b3(self.stem(x))
        c4 = self.b4(c3)
        c5 = self.b5(c4)
        f4 = self.f4(torch.cat([F.interpolate(c5, scale_factor=2.0), c4], 1))
        f3 = self.f3(torch.cat([F.interpolate(f4, scale_factor=2.0), c3], 1))
        f4 = self.p4(torch.cat([self.down3(f3), f4], 1))
        f5 = self.p5(torch.cat([self.down4(f4), c5], 1))
        maps = [torch.cat([b(f), c(f)], 1) for b, c, f in zip(self.box, self.cls, (f3, f4, f5), strict=True)]
        if self.training:
            return maps
        flat = torch.cat([m.view(m.shape[0], self.no, -1) for m in maps], 2)
        box, cls = flat.split((4 * self.reg, self.no - 4 * self.reg), 1)
        n, _, a = box.shape
        box = (box.view(n, 4, self.reg, a).transpose(2, 1).softmax(1) * self.bins.view(1, -1, 1, 1)).sum(1)
        return torch.cat([box, cls.sigmoid()], 1), maps


class FPN(nn.Module):
    """Several outputs in a dict, lateral sums."""

    def __init__(self) -> None:
        super().__init__()
        self.b1, self.b2, self.b3 = conv(3, 8), conv(8, 16, 3, 2), conv(16, 24, 3, 2)
        self.l1, self.l2, self.l3 = (nn.Conv2d(c, 12, 1) for c in (8, 16, 24))
        self.smooth = nn.Conv2d(12, 12, 3, 1, 1)
        self.heads = nn.ModuleDict({"a": nn.Conv2d(12, 5, 1), "b": nn.Conv2d(12, 2, 1)})

    def forward(self, image: Tensor, scale: Tensor) -> dict[str, Tensor]:
        c1 = self.b1(image * scale)
        c2 = self.b2(c1)
        p3 = self.l3(self.b3(c2))
        p2 = self.l2(c2) + F.interpolate(p3, scale_factor=2.0)
        p1 = self.smooth(self.l1(c1) + F.interpolate(p2, scale_factor=2.0))
        return {name: head(p1) for name, head in self.heads.items()}


CASES = {
    "unet": (UNet, torch.randn(1, 3, 16, 16), 0.5),
    "super-resolution": (SuperResolution, torch.randn(1, 3, 8, 8), 0.5),
    "yolo": (YOLO, torch.randn(1, 3, 64, 64), 0.5),
    "fpn": (FPN, {"image": torch.randn(1, 3, 16, 16), "scale": torch.ones(1, 1, 1, 1)}, 0.5),
}


@pytest.mark.parametrize("scope", ["uniform", "global"])
@pytest.mark.parametrize("name", CASES)
def test_half_the_channels_go_and_inputs_and_outputs_keep_theirs(name: str, scope: str) -> None:
    torch.manual_seed(0)
    make, x, share = CASES[name]
    model = make()
    result = tb.prune(model, x, budget=tb.Budget(channels=share), criterion=tb.criteria.Random(seed=1), scope=scope)
    assert result.verification.exact, result.verification.reason
    assert result.verification.max_rel_error < 1e-12
    assert result.cost.after.params < 0.45 * result.cost.before.params
    run = (lambda m: m(**x)) if isinstance(x, dict) else (lambda m: m(x))
    for training in (False, True):
        before, after = (run(m.train(training)) for m in (model, result.model))
        assert shapes(before) == shapes(after)


def shapes(out: object) -> list[torch.Size]:
    if isinstance(out, Tensor):
        return [out.shape]
    values = out.values() if isinstance(out, dict) else out
    return [s for v in values for s in shapes(v)]  # type: ignore[union-attr]
