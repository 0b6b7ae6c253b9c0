"""Reading a checkpoint, strictly."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from torchbonsai.core.errors import DataError, message


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a checkpoint into `model`, strictly: every name, every shape.

    path: a .safetensors file, or what `torch.save` wrote of a state dict, bare or under the key "state_dict"; a
    prefix "module." (of DataParallel) is stripped. Nothing but tensors is unpickled. Raises DataError where the file
    is missing, damaged, of another model, or holds NaN or infinity; the model is as it was then.
    """
    load_state(model, read_weights(path), Path(path).name)


def load_state(model: nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    """`load_weights` for tensors that were read already from the file called `name`.

    A batch norm's counter `num_batches_tracked` may be missing, as in files older than the counter: it starts at 0.
    """
    own = model.state_dict()
    counters = {k: torch.zeros_like(v) for k, v in own.items() if k.endswith("num_batches_tracked")}
    tensors = counters | dict(tensors)
    different = [k for k in own.keys() & tensors.keys() if own[k].shape != tensors[k].shape]
    missing, unexpected = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or unexpected or different:
        raise DataError(
            message(
                f"the checkpoint {name} must be of this model, name for name and shape for shape",
                _difference(missing, unexpected, sorted(different), own, tensors),
                "a checkpoint of another model, depth, width or number of classes",
                "build the model that the checkpoint was made with",
            )
        )
    model.load_state_dict(tensors, strict=True)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint on the CPU, names without "module."; see `load_weights` for what is accepted."""
    path = Path(path)
    if not path.is_file():
        raise DataError(message("the checkpoint must be a file", f"{path} is none", "a typing error", "check the path"))
    content = _read(path)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise _unreadable(path, f"{type(content).__name__} that is no dict of tensors")
    tensors = {str(k).removeprefix("module."): v for k, v in content.items()}
    bad = [k for k, v in tensors.items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if bad:
        raise _unreadable(path, f"NaN or infinity in {', '.join(bad[:3])}")
    return tensors


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, weights_only=True, map_location="cpu")
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise _unreadable(path, f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}") from error


def _unreadable(path: Path, got: str) -> DataError:
    return DataError(
        message(
            f"the checkpoint {path.name} must hold finite tensors by name, and nothing else",
            got,
            "a broken download, a pickled module, or a run that diverged",
            "save model.state_dict(), and give that file",
        )
    )


def _difference(
    missing: list[str],
    unexpected: list[str],
    different: list[str],
    own: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
) -> str:
    shapes = [f"{k} {tuple(tensors[k].shape)} for {tuple(own[k].shape)}" for k in different]
    parts = (("missing", missing), ("not of this model", unexpected), ("other shapes", shapes))
    return "; ".join(f"{len(v)} {what}: {', '.join(v[:3])}" + (", …" if len(v) > 3 else "") for what, v in parts if v)
