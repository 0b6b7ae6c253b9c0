"""The loops that the training loop is measured against, as one writes them by hand; each is read in a minute."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from torchbonsai.data import Splits

Turn = Callable[[], float]
"""Trains on every image once; returns the mean loss."""


class Images(Dataset):
    """Images as most people keep them: an image at a time, padded, cropped, flipped and normalised as tensors."""

    def __init__(self, splits: Splits) -> None:
        self.x, self.y = splits.train.x, splits.train.y
        self.mean = torch.tensor(splits.mean)[:, None, None]
        self.std = torch.tensor(splits.std)[:, None, None]

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        size = self.x.shape[2]
        top, left = torch.randint(9, (2,)).tolist()
        x = F.pad(self.x[index], (4, 4, 4, 4))[:, top : top + size, left : left + size]
        if torch.rand(()) < 0.5:
            x = x.flip(2)
        return (x.float() / 255 - self.mean) / self.std, self.y[index]


def with_loader(model: nn.Module, splits: Splits, batch_size: int, workers: int, device: torch.device) -> Turn:
    """(a) a DataLoader, float32, eager."""
    loader = DataLoader(
        Images(splits),
        batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )
    optimizer = make_optimizer(model)

    def turn() -> float:
        model.train()
        total = 0.0
        for x, y in loader:
            x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item()
        return total / len(loader)

    return turn


def on_device(model: nn.Module, splits: Splits, batch_size: int, device: torch.device) -> Turn:
    """(b) all images on the device, normalised and padded once, cropped and flipped an epoch at a time; float32, eager.

    Batch by batch, `cropped` would take as long as a step of LeNet.
    """
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (splits.mean, splits.std))
    x_all, y_all = splits.train.x.to(device), splits.train.y.to(device)
    size = x_all.shape[2]
    padded = F.pad((x_all.float() / 255 - mean) / std, (4, 4, 4, 4))
    optimizer = make_optimizer(model)

    def turn() -> float:
        model.train()
        total, order = 0.0, torch.randperm(len(y_all), device=device)
        x = cropped(padded, size)
        x = torch.where(torch.rand(len(x), 1, 1, 1, device=device) < 0.5, x.flip(3), x)
        for chunk in order.split(batch_size):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x[chunk]), y_all[chunk])
            loss.backward()
            optimizer.step()
            total += loss.item()
        return total / len(order.split(batch_size))

    return turn


def cropped(x: Tensor, size: int) -> Tensor:
    """A random window of each image; all images with one and the same shift at once, as cifar10-airbench does it."""
    room = x.shape[2] - size + 1
    shifts = torch.randint(room, (2, len(x)), device=x.device)
    out = torch.empty(*x.shape[:2], size, size, device=x.device, dtype=x.dtype)
    for top in range(room):
        for left in range(room):
            mine = (shifts[0] == top) & (shifts[1] == left)
            out[mine] = x[mine, :, top : top + size, left : left + size]
    return out


def make_optimizer(model: nn.Module) -> torch.optim.SGD:
    """As in our loop."""
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
