"""Starting points: untrained, pretrained (a source data set or a checkpoint, and a fresh head), trained."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from torchbonsai.core.errors import ConfigError, DataError, message


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a checkpoint into `model`, strictly: every name, every shape.

    path: a .safetensors file, or what `torch.save` wrote of a state dict, bare or under the key "state_dict"; a
    prefix "module." (of DataParallel) is stripped. Nothing but tensors is unpickled. Raises DataError where the file
    is missing, damaged, of another model, or holds NaN or infinity; the model is as it was then.
    """
    tensors = read_weights(path)
    own = model.state_dict()
    different = [k for k in own.keys() & tensors.keys() if own[k].shape != tensors[k].shape]
    missing, unexpected = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or unexpected or different:
        raise DataError(
            message(
                f"the checkpoint {Path(path).name} must be of this model, name for name and shape for shape",
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


def fresh_head(model: nn.Module, classes: int, seed: int, example_inputs: Tensor) -> nn.Module:
    """Replace, in place, the layer that makes the output by a new one of `classes` outputs; returns the new layer.

    The head is found by what makes the output, not by its name: of the parameters with two axes and more, the one
    nearest to the output in the autograd graph of a forward on `example_inputs`. Its module must be an nn.Linear or
    an nn.Conv2d whose outputs are the model's. The new layer has PyTorch's default initialisation, from `seed`; the
    global random state is left as found. Raises ConfigError where no such layer is found.
    """
    name, head = find_head(model, example_inputs)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        new = _like(head, classes)
    new.to(device=head.weight.device, dtype=head.weight.dtype).train(head.training)
    model.set_submodule(name, new)
    return new


def find_head(model: nn.Module, example_inputs: Tensor) -> tuple[str, nn.Linear | nn.Conv2d]:
    """The name and module of the layer that makes the output; see `fresh_head`."""
    flags = [(m, m.training) for m in model.modules()]
    try:
        with torch.enable_grad():
            output = model.eval()(example_inputs)
    finally:
        for module, flag in flags:
            module.training = flag
    weight = _nearest_weight(output) if isinstance(output, Tensor) and output.grad_fn is not None else None
    for name, module in model.named_modules():
        if weight is not None and isinstance(module, nn.Linear | nn.Conv2d) and module.weight is weight:
            if name and len(weight) == output.shape[1]:
                return name, module
            break
    raise ConfigError(
        message(
            "a fresh head needs a model whose output comes from one linear layer or convolution",
            f"{type(model).__name__}, where no such layer was found at the output",
            "an output of several parts, a frozen head, or a layer of another kind at the end",
            "build the model for the right number of classes",
        )
    )


def _nearest_weight(output: Tensor) -> Tensor | None:
    """Breadth first from the output towards the leaves: the first parameter with two axes or more."""
    waiting, seen = deque([output.grad_fn]), set()
    while waiting:
        node: Any = waiting.popleft()
        variable = getattr(node, "variable", None)
        if variable is not None and variable.ndim > 1:
            return variable
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    return None


def _like(head: nn.Linear | nn.Conv2d, classes: int) -> nn.Linear | nn.Conv2d:
    bias = head.bias is not None
    if isinstance(head, nn.Linear):
        return nn.Linear(head.in_features, classes, bias=bias)
    size, stride = head.kernel_size, head.stride
    return nn.Conv2d(head.in_channels, classes, size, stride, head.padding, head.dilation, bias=bias)  # type: ignore[arg-type]


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, weights_only=True, map_location="cpu")
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise _unreadable(path, f"{type(error).__name__}: {str(error).splitlines()[0][:200]}") from error


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
