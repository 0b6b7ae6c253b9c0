"""Training flags that come back, precision, memory layout."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from torchbonsai.training.config import Precision


@contextlib.contextmanager
def flags_kept(model: nn.Module) -> Iterator[None]:
    """Every module's training flag is afterwards what it was, also after an error."""
    flags = [(m, m.training) for m in model.modules()]
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """The global random state of the CPU and of `device` starts from `seed` inside, and is as found afterwards."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """bfloat16 for the ops that bear it, or nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def memory_format(channels_last: bool) -> torch.memory_format:
    """PyTorch's name of the layout."""
    return torch.channels_last if channels_last else torch.contiguous_format


def laid_out(x: Tensor, channels_last: bool) -> Tensor:
    """(n, c, h, w) in the layout asked for."""
    return x.contiguous(memory_format=memory_format(channels_last))
