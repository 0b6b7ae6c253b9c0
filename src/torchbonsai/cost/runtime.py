"""What runs a network: eager PyTorch, torch.compile, ONNX Runtime; each by name, and brought in when it is asked for.

The engine has the first two. Others live in rooms above and are found by the table below, so that importing the
engine imports none of them; `register` adds one of one's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from torchbonsai.core.errors import ConfigError, message
from torchbonsai.cost.evaluate import call
from torchbonsai.cost.layer import Layer
from torchbonsai.graph.call import flat_tensors, map_tensors
from torchbonsai.graph.forward import copy_module, unwrap

Layout = Literal["contiguous", "channels_last"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
Run = Callable[[], list[Tensor]]
"""One forward on inputs that were given before; its output tensors, in order. To be called in inference mode, always:
a compiled network is compiled for one mode."""


@dataclass(frozen=True)
class Target:
    """device: "cpu" or "cuda". runtime: a name that `runtime_named` knows. layout: of pictures and their weights."""

    device: str
    runtime: str
    layout: Layout = "contiguous"

    def __str__(self) -> str:
        return f"{self.device}:{self.runtime}" + ("" if self.layout == "contiguous" else f":{self.layout}")


class Loaded(Protocol):
    """A network that a runtime has taken over."""

    def bind(self, example_inputs: Any, threads: int) -> Run:
        """What runs it on these inputs; the first call may compile."""


class Runtime(Protocol):
    """One way to run networks; has nothing to do with their values."""

    name: str

    def load(self, model: nn.Module, example_inputs: Any, target: Target) -> Loaded:
        """Take over a copy of `model`, in eval mode; the model stays as it is."""

    def layer(self, layer: Layer, inputs: int, outputs: int, target: Target, threads: int) -> Callable[[], float]:
        """What runs one layer at these widths, and returns the seconds that the layer itself took."""

    def versions(self) -> dict[str, str]:
        """Of the packages that decide its speed."""


_MAKERS: dict[str, tuple[str, str]] = {
    "eager": ("torchbonsai.cost.eager", "Eager"),
    "compile": ("torchbonsai.cost.eager", "Compiled"),
    "onnxruntime": ("torchbonsai.artifacts.onnx_runtime", "OnnxRuntime"),
}
_OWN: dict[str, Runtime] = {}


def register(runtime: Runtime) -> None:
    """Make a runtime of one's own known by its name; one of the same name is replaced."""
    _OWN[runtime.name] = runtime


def runtime_names() -> tuple[str, ...]:
    """Every name that `runtime_named` knows, whether its packages are installed or not."""
    return (*_MAKERS, *(name for name in _OWN if name not in _MAKERS))


def runtime_named(name: str) -> Runtime:
    """The runtime. Raises ConfigError for an unknown name; ArtifactError, with the install line, for a missing package.

    >>> runtime_named("eager").name
    'eager'
    """
    if name in _OWN:
        return _OWN[name]
    if name not in _MAKERS:
        raise ConfigError(
            message(
                f"a runtime is one of {', '.join(runtime_names())}",
                repr(name),
                "a typing error",
                "give one of these, or register your own with torchbonsai.cost.runtime.register",
            )
        )
    module, attribute = _MAKERS[name]
    made: Runtime = getattr(import_module(module), attribute)()
    return made


def parse_target(text: str) -> Target:
    """ "cpu:onnxruntime", or "cuda:eager:channels_last", as a Target. Raises ConfigError for anything else.

    >>> parse_target("cpu:eager:channels_last")
    Target(device='cpu', runtime='eager', layout='channels_last')
    """
    parts = text.split(":") if isinstance(text, str) else []
    device, runtime, layout = (*parts, "contiguous")[:3] if len(parts) == 2 else (*parts, "", "", "")[:3]
    if len(parts) not in (2, 3) or device not in ("cpu", "cuda") or layout not in LAYOUTS:
        raise ConfigError(
            message(
                'on= is "device:runtime", or "device:runtime:channels_last"; the device is cpu or cuda',
                repr(text),
                "a device without a runtime, or a runtime without a device",
                f'e.g. on="cpu:eager"; runtimes are {", ".join(runtime_names())}',
            )
        )
    if runtime not in runtime_names():
        runtime_named(runtime)  # says which there are
    chosen: Layout = "channels_last" if layout == "channels_last" else "contiguous"
    return Target(device, runtime, chosen)


def check_device(target: Target) -> None:
    """Raises ConfigError where the target's device is not there."""
    if target.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            message(
                f"{str(target)!r} needs a CUDA device", "none", "a CPU build of PyTorch, or no GPU", "measure on cpu"
            )
        )


def placed(model: nn.Module, target: Target) -> nn.Module:
    """A copy of `model` in eval mode, on the target's device and in its layout."""
    check_device(target)
    copy = copy_module(unwrap(model), {}).eval().to(target.device)
    return copy.to(memory_format=torch.channels_last) if target.layout == "channels_last" else copy  # type: ignore[call-overload]


def placed_inputs(example_inputs: Any, target: Target) -> Any:
    """The inputs on the target's device and in its layout."""
    check_one(example_inputs)

    def move(tensor: Tensor) -> Tensor:
        tensor = tensor.detach().to(target.device)
        pictures = target.layout == "channels_last" and tensor.dim() == 4
        return tensor.contiguous(memory_format=torch.channels_last if pictures else torch.contiguous_format)

    return map_tensors(move, example_inputs)


def check_one(example_inputs: Any) -> None:
    """Raises ConfigError for a list of several examples."""
    if isinstance(example_inputs, list):
        raise ConfigError(
            message(
                "latency is measured on one example: a Tensor, a tuple of positional or a dict of keyword inputs",
                f"a list of {len(example_inputs)}",
                "the list of examples that was given to tb.trace",
                "pass one of them, or a tuple",
            )
        )


def bound(module: Callable[..., Any], inputs: Any) -> Run:
    """One forward of a module."""
    return lambda: flat_tensors(call(module, inputs))
