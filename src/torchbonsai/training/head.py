"""Finding the layer that makes a model's output, and replacing it where the classes are others."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor, nn

from torchbonsai.core.errors import ConfigError, message
from torchbonsai.training.modes import flags_kept


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
    with flags_kept(model), torch.enable_grad():
        output = model.eval()(example_inputs)
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
