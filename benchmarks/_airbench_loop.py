"""A training loop of the structure of cifar10-airbench (Jordan 2024): the epoch is prepared on the GPU in one go, the
network is compiled and channels_last, and no step waits for the host. Around any network, in any precision."""

from __future__ import annotations

import torch
from _plain_loops import Turn, cropped, make_optimizer
from torch import nn
from torch.nn import functional as F

from torchbonsai.data import Splits


def airbench(model: nn.Module, splits: Splits, batch_size: int, dtype: torch.dtype) -> Turn:
    """All of it on CUDA. dtype: of the forward pass, by autocast; weights stay float32."""
    device = torch.device("cuda")
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (splits.mean, splits.std))
    x_all, y_all = splits.train.x.to(device), splits.train.y.to(device)
    size = x_all.shape[2]
    padded = F.pad((x_all.float() / 255 - mean) / std, (4, 4, 4, 4))
    model.to(memory_format=torch.channels_last)
    optimizer, forward = make_optimizer(model), torch.compile(model, dynamic=False)

    def turn() -> float:
        model.train()
        x = cropped(padded, size)  # the whole epoch
        x = torch.where(torch.rand(len(x), 1, 1, 1, device=device) < 0.5, x.flip(3), x)
        x = x.contiguous(memory_format=torch.channels_last)
        total = torch.zeros((), device=device)
        chunks = torch.randperm(len(y_all), device=device).split(batch_size)
        for chunk in chunks:
            with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
                loss = F.cross_entropy(forward(x[chunk]), y_all[chunk])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        return (total / len(chunks)).item()  # the one time that the host waits

    return turn
