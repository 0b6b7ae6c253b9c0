"""The settings of the arithmetic that decide a result's bits: part of every stage's config that computes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import torch
import torch.utils.deterministic

from torchbonsai.core.config import added_later
from torchbonsai.core.errors import ConfigError, message


@dataclass(frozen=True)
class Numerics:
    """threads: of torch, per process. compile: the training step. deterministic: refuse ops without a deterministic
    implementation. devices: so many processes, a device each, share out the batches of a training."""

    threads: int = 1
    device: str = "cpu"
    precision: Literal["float32", "bf16"] = "float32"
    channels_last: bool = False
    compile: bool = False
    deterministic: bool = True
    devices: int = added_later(1)

    def __post_init__(self) -> None:
        """Raises ConfigError for a number of threads or devices below one, an unknown precision, or a team whose step
        is to be compiled or whose device has a number."""
        if self.threads < 1 or self.precision not in ("float32", "bf16"):
            raise ConfigError(
                message(
                    "threads must be at least 1, precision 'float32' or 'bf16'",
                    f"threads={self.threads}, precision={self.precision!r}",
                    "a mistyped option",
                    "say threads=1, precision='float32'",
                )
            )
        if self.devices != 1 and (self.devices < 1 or self.compile or self.device not in ("cpu", "cuda")):
            raise ConfigError(
                message(
                    "several devices need device='cpu' or 'cuda', without a number, and an eager step",
                    f"devices={self.devices}, device={self.device!r}, compile={self.compile}",
                    "a numbered device, or compile, which is for one process",
                    "say devices=2, device='cuda', and leave compile out",
                )
            )


def check_device(device: str, devices: int = 1) -> None:
    """Raises ConfigError for a device that this machine, or this build of PyTorch, does not have, or not so often.

    Several devices need Lightning Fabric.
    """
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            message(
                "the device must be one that PyTorch can use here",
                f"{device!r} ({str(error).partition(chr(10))[0]})",
                "a mistyped name, a machine without that device, or a build of PyTorch without it",
                "say --device cpu, or install the build for your device",
            )
        ) from error
    if devices > 1 and device == "cuda" and devices > torch.cuda.device_count():
        got = f"{devices}, of {torch.cuda.device_count()}"
        raise ConfigError(message("so many devices must be here", got, "a number for another machine", "say fewer"))
    if devices > 1 and find_spec("lightning_fabric") is None:
        must = "several devices need lightning-fabric"
        raise ConfigError(
            message(must, "not installed", "an extra that was left out", "pip install 'torchbonsai[distributed]'")
        )


@contextlib.contextmanager
def applied(numerics: Numerics) -> Iterator[None]:
    """Set threads and determinism for a block, and put back what was there."""
    if numerics.device.startswith("cuda"):  # without it cuBLAS refuses to be deterministic
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    memory: Any = torch.utils.deterministic  # its attribute is a property of the module, which mypy cannot see
    filled = memory.fill_uninitialized_memory
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.set_num_threads(numerics.threads)
    torch.use_deterministic_algorithms(numerics.deterministic)
    memory.fill_uninitialized_memory = False  # a tenth of a small network's training time
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        memory.fill_uninitialized_memory = filled
