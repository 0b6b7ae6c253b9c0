"""torch.compile around the training step's forward and backward, without its silent ways back to eager."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from torch import Tensor, nn

from torchbonsai.core.errors import ConfigError, message

RECOMPILES = 512
"""A pruned network is compiled anew; PyTorch's own limit, 8, ends in eager without a word."""


@contextlib.contextmanager
def compiled(model: nn.Module, wanted: bool) -> Iterator[Callable[[Tensor], Tensor]]:
    """`model` itself, or its compiled twin, which shares its parameters and follows a cut in place.

    Shapes are static: every new one (a cut, the smaller batch of an epoch) is compiled once. Within the block,
    exceeding `RECOMPILES` is an error instead of a fall-back to eager. Raises ConfigError where compiling fails.
    """
    if not wanted:
        yield model
        return
    import torch._dynamo  # seconds, and of no use to eager training
    from torch._dynamo.exc import TorchDynamoException

    limits = {"recompile_limit": RECOMPILES, "accumulated_recompile_limit": RECOMPILES}
    with torch._dynamo.config.patch({**limits, "fail_on_recompile_limit_hit": True}):
        try:
            yield torch.compile(model, dynamic=False)
        except TorchDynamoException as error:
            raise ConfigError(
                message(
                    "a model that is trained compiled must be one that torch.compile can compile here",
                    f"{type(model).__name__}: {type(error).__name__}: {' '.join(str(error).split())[:300]}",
                    "no C++ compiler on this machine, or an op that torch.compile does not know",
                    "train it eager: leave `compile` out",
                )
            ) from error
