"""The two runtimes that PyTorch brings: eager, and torch.compile."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from torchbonsai.core.errors import ArtifactError, message
from torchbonsai.cost.layer import Layer
from torchbonsai.cost.runtime import Run, Target, bound, placed, placed_inputs

_MOST_GRAPHS = 4096


@dataclass(frozen=True, eq=False)
class _Module:
    module: Callable[..., Any]
    target: Target

    def bind(self, example_inputs: Any, threads: int) -> Run:
        """Threads are PyTorch's own, which whoever measures sets."""
        return bound(self.module, placed_inputs(example_inputs, self.target))


class Eager:
    """PyTorch, op by op."""

    name = "eager"

    def load(self, model: nn.Module, example_inputs: Any, target: Target) -> _Module:
        """A copy on the target's device and in its layout."""
        return _Module(placed(model, target), target)

    def layer(self, layer: Layer, inputs: int, outputs: int, target: Target, threads: int) -> Callable[[], float]:
        """One layer as a module of its own."""
        with torch.random.fork_rng(devices=[]):
            module, shape = layer.build(inputs, outputs)
        run = bound(placed(module, target), placed_inputs(torch.zeros(shape, dtype=layer.torch_dtype), target))
        wait = torch.cuda.synchronize if target.device == "cuda" else lambda: None

        def seconds() -> float:
            wait()
            start = time.perf_counter()
            run()
            wait()
            return time.perf_counter() - start

        return seconds

    def versions(self) -> dict[str, str]:
        """PyTorch's."""
        return {"torch": torch.__version__}


class Compiled(Eager):
    """torch.compile with static shapes. Its layers are eager's: the compiler calls the same kernels for them."""

    name = "compile"

    def load(self, model: nn.Module, example_inputs: Any, target: Target) -> _Compiled:
        """Nothing is compiled before the first call."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the compiler's own imports
            return _Compiled(torch.compile(placed(model, target), dynamic=False), target)


@dataclass(frozen=True, eq=False)
class _Compiled(_Module):
    def bind(self, example_inputs: Any, threads: int) -> Run:
        """Compiled here, and an error where it cannot be: PyTorch alone would go on in eager mode and say nothing."""
        run = super().bind(example_inputs, threads)
        config = torch._dynamo.config
        with config.patch(
            recompile_limit=_MOST_GRAPHS, accumulated_recompile_limit=_MOST_GRAPHS, suppress_errors=False
        ):
            try:
                with torch.inference_mode(), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    run()
            except Exception as error:
                raise ArtifactError(
                    message(
                        "torch.compile must be able to compile the forward",
                        f"{type(error).__name__}: {' '.join(str(error).split())[:400]}",
                        "no C++ compiler on this machine, or an op that the compiler does not know",
                        "install a compiler (g++), or measure on eager or onnxruntime",
                    )
                ) from error
        return run
