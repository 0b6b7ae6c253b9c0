"""`export`: a network as ONNX or .pt2, checked against the module before the file takes its place."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchbonsai.artifacts.folder import writing
from torchbonsai.artifacts.forms import WRITERS, Form, Runner, capture, need, tensors_of, with_plain_outputs
from torchbonsai.artifacts.inputs import describe, random_example
from torchbonsai.core.errors import ArtifactError, message
from torchbonsai.graph.forward import copy_module

BATCHES = (1, 3)
TOLERANCE = 1e-4
_CAPTURED = 2  # torch.export takes a batch of one for a constant


@dataclass(frozen=True)
class Exported:
    """One written file. max_rel_error: over `batches`, max|file − module| / max|module| of every output."""

    path: Path
    form: Form
    max_rel_error: float
    batches: tuple[int, ...] = BATCHES

    def __str__(self) -> str:
        sizes = " and ".join(map(str, self.batches))
        size = self.path.stat().st_size / 1e6
        return (
            f"{self.path}  {size:.2f} MB, equals the module on random inputs, batches {sizes}: "
            f"relative error {self.max_rel_error:.1e}"
        )


def export(
    model: nn.Module, example_inputs: Any, folder: str | Path, forms: Sequence[Form] = ("onnx", "pt2")
) -> tuple[Exported, ...]:
    """Write model.onnx and model.pt2 into `folder`: eval mode, any batch size, no need for the model's class.

    example_inputs: as for `tb.prune`; only shapes and dtypes matter. Each file is read back and compared with the
    module on random inputs of batches 1 and 3 (.pt2 by torch.export.load, ONNX under ONNX Runtime), and appears only
    if no output differs by more than 1e-4 of its largest entry. Outputs of a
    class of its own become dicts or tuples. The model is left as found.

    Raises ArtifactError for a missing package, a forward that cannot be captured, and a file that differs.
    """
    for form in forms:
        need(form)
    folder, described = Path(folder), describe(example_inputs)
    copy = with_plain_outputs(copy_module(model, {}).eval().cpu())
    program = capture(copy, random_example(described, batch=_CAPTURED), _CAPTURED)
    expected = [_expected(copy, described, batch) for batch in BATCHES]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    written = []
    with ExitStack() as files:  # all appear at the end, or none
        for form in forms:
            path = folder / f"model.{form}"
            runner = WRITERS[form](program, files.enter_context(_new_file(path)))
            written.append(Exported(path, form, _checked(runner, form, described, expected)))
    return tuple(written)


def _checked(runner: Runner, form: Form, described: dict[str, Any], expected: list[list[Tensor]]) -> float:
    """The relative error over all batches. Raises ArtifactError above the tolerance."""
    error = max(_error(runner, described, batch, outputs) for batch, outputs in zip(BATCHES, expected, strict=True))
    if not error <= TOLERANCE:
        raise ArtifactError(
            message(
                f"the {form} file must give the module's outputs, within {TOLERANCE:.0e} of the largest",
                f"a relative error of {error:.1e}; nothing was written",
                "a forward that is random or branches on values, half precision, or a fault of the exporter",
                "export the other form, or leave the part out of the forward",
            )
        )
    return error


def _expected(model: nn.Module, described: dict[str, Any], batch: int) -> list[Tensor]:
    """The module's own outputs. Raises ArtifactError where they are not finite, as nothing can be checked then."""
    args, kwargs = random_example(described, batch=batch, seed=batch)
    with torch.no_grad():
        outputs = tensors_of(model(*args, **kwargs))
    finite = all(bool(torch.isfinite(o).all()) for o in outputs if o.is_floating_point())
    if not outputs or not finite:
        raise ArtifactError(
            message(
                "the module's outputs on random inputs must be finite tensors, so that the file can be checked",
                f"NaN or infinity at batch {batch}" if outputs else "no tensor",
                "weights that diverged, or random weights in a deep network without statistics",
                "train the network first",
            )
        )
    return outputs


def _error(runner: Runner, described: dict[str, Any], batch: int, expected: list[Tensor]) -> float:
    """The largest difference over the largest entry, of all outputs; infinite where a shape differs."""
    example = random_example(described, batch=batch, seed=batch)
    try:
        found = runner(example)
    except Exception as error:
        raise ArtifactError(
            message(
                f"the file must run on a batch of {batch}",
                f"{type(error).__name__}: {' '.join(str(error).split())[:300]}; nothing was written",
                "a size that the exporter took for a constant",
                "write sizes as x.shape[0] or -1 in the forward, or export the other form",
            )
        ) from error
    if len(found) != len(expected):
        return float("inf")
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        if a.shape != b.shape:
            return float("inf")
        if a.numel():
            a, b = a.double(), b.double()
            difference, largest = (a - b).abs().max().item(), a.abs().max().item()
            relative = difference / largest if largest else float(difference > 0)
            worst = max(worst, relative) if relative == relative else float("inf")
    return worst


@contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place at the end; on an error `path` is as before."""
    with writing(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
