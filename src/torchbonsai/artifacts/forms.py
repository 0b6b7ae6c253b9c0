"""The two forms of a network that need neither torchbonsai nor its class: torch.export's .pt2, and ONNX."""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from torchbonsai.core.errors import ArtifactError, message
from torchbonsai.graph.forward import Example

Form = Literal["pt2", "onnx"]
Runner = Callable[[Example], list[Tensor]]
INSTALL = "pip install 'torchbonsai[export]'"
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def need(form: Form) -> None:
    """Raises ArtifactError with the install line where a package that writes or checks this form is missing."""
    missing = [package for package in _ONNX_PACKAGES if form == "onnx" and find_spec(package) is None]
    if missing:
        raise ArtifactError(
            message(
                f"ONNX export needs {', '.join(_ONNX_PACKAGES)}",
                f"not installed: {', '.join(missing)}",
                "they are optional",
                INSTALL,
            )
        )


def capture(model: nn.Module, example: Example, batch: int) -> torch.export.ExportedProgram:
    """The forward as a graph of tensor ops, its batch size left open; `example` has batch size `batch`, above 1.

    Every tensor whose first axis is `batch` long is taken to lie along the batch. Raises ArtifactError where the
    forward cannot be captured so.
    """
    args, kwargs = example
    shapes, axis = torch.export.ShapesCollection(), torch.export.Dim("batch")
    for tensor in tree_leaves((args, kwargs)):
        if isinstance(tensor, Tensor) and tensor.dim() and tensor.shape[0] == batch:
            shapes[tensor] = {0: axis}
    with _quiet(), torch.no_grad():
        try:
            # PyTorch takes a ShapesCollection here, as its documentation says; its annotation leaves it out.
            return torch.export.export(model, args, kwargs, dynamic_shapes=shapes)  # type: ignore[arg-type]
        except Exception as error:
            raise ArtifactError(
                message(
                    "torch.export must be able to capture the forward, for any batch size",
                    f"{type(error).__name__}: {_first_lines(error)}",
                    "a forward that branches on values, or fixes the batch size (x.view(1, …))",
                    "write sizes as x.shape[0] or -1; look at the first line that torch.export names",
                )
            ) from error


def write_pt2(program: torch.export.ExportedProgram, path: Path) -> Runner:
    """Write the file; returns what runs it, read back from the file."""
    with _quiet():
        torch.export.save(program, path)
        module = torch.export.load(path).module()

    def run(example: Example) -> list[Tensor]:
        with torch.no_grad():
            return tensors_of(module(*example[0], **example[1]))

    return run


def write_onnx(program: torch.export.ExportedProgram, path: Path) -> Runner:
    """Write the file; returns what runs it under ONNX Runtime on the CPU, read back from the file."""
    to_onnx(program, path)
    session = open_session(path.read_bytes(), torch.get_num_threads())
    names = [entry.name for entry in session.get_inputs()]

    def run(example: Example) -> list[Tensor]:
        given = [leaf for leaf in tree_leaves(example) if isinstance(leaf, Tensor)]
        feed = {name: tensor.numpy() for name, tensor in zip(names, given, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, feed)]

    return run


def to_onnx(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write the file. Raises ArtifactError where PyTorch's exporter cannot."""
    with _quiet():
        try:
            torch.onnx.export(program, f=path, dynamo=True, verbose=False, external_data=False)
        except Exception as error:
            raise ArtifactError(
                message(
                    "PyTorch's ONNX exporter must know every op of the network",
                    f"{type(error).__name__}: {_first_lines(error)}",
                    "an op without an ONNX form, or a network above ONNX's 2 GB",
                    "export with --pt2, or write the op with others",
                )
            ) from error


def open_session(raw: bytes, threads: int, profile: str | None = None) -> Any:
    """An ONNX Runtime session on the CPU. profile: where it writes what every op took, by prefix of a file's path.

    Raises ArtifactError where it cannot be opened.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    try:
        return onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ArtifactError(
            message(
                "ONNX Runtime must be able to open the file",
                f"{type(error).__name__}: {_first_lines(error)}; nothing was written",
                "versions of torch, onnxscript and onnxruntime that do not belong together",
                f"{INSTALL} --upgrade, or export with --pt2",
            )
        ) from error


WRITERS: dict[Form, Callable[[torch.export.ExportedProgram, Path], Runner]] = {"pt2": write_pt2, "onnx": write_onnx}


def tensors_of(outputs: Any) -> list[Tensor]:
    """The tensors among a forward's outputs, in the order in which both forms list them."""
    return [leaf for leaf in tree_leaves(plain(outputs)) if isinstance(leaf, Tensor)]


def plain(outputs: Any) -> Any:
    """Outputs as tuples, lists and dicts: a class of the library's or the user's own is one that a reader lacks."""
    if isinstance(outputs, tuple | list):
        return (tuple if isinstance(outputs, tuple) else list)(plain(o) for o in outputs)
    if isinstance(outputs, Mapping):
        return {key: plain(value) for key, value in outputs.items()}
    if dataclasses.is_dataclass(outputs) and not isinstance(outputs, type):
        return {field.name: plain(getattr(outputs, field.name)) for field in dataclasses.fields(outputs)}
    return outputs


def with_plain_outputs(model: nn.Module) -> nn.Module:
    """`model` in a module whose forward has the same arguments and gives `plain` outputs."""

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return plain(self.model(*args, **kwargs))

    # The files name their inputs after the arguments.
    Plain.forward.__signature__ = inspect.signature(type(model).forward)  # type: ignore[attr-defined]
    return Plain().train(model.training)


@contextmanager
def _quiet() -> Iterator[None]:
    """PyTorch's exporters warn about their own insides; what a user must know comes as an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _first_lines(error: Exception) -> str:
    return " ".join(" ".join(str(error).split("\n")[:6]).split())[:600]
