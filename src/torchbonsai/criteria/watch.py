"""Watching activations at the places that the trace has found, without hooks on modules of any type."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from torchbonsai.core.errors import PruningError, message
from torchbonsai.graph.channel_graph import Site

Callback = Callable[[Site, Tensor], None]


def watch_forward(model: nn.Module, sites: Sequence[Site], callback: Callback, forward: Callable[[], object]) -> None:
    """Run `forward`, which runs `model`, and call `callback(site, output)` at each site, in forward order.

    Ops are counted inside the model only, from 0 for every call of it, whatever else `forward` computes. Raises
    PruningError where the op at a site is not the traced one, or where `forward` never runs the model.
    """
    watched = {site.op_index: site for site in sites}
    runs: list[_Watcher] = []
    within = ExitStack()

    def enter(*_: Any) -> None:
        runs.append(within.enter_context(_Watcher(watched, callback)))

    def leave(*_: Any) -> None:
        within.close()

    hooks = (model.register_forward_pre_hook(enter), model.register_forward_hook(leave, always_call=True))
    try:
        with _slow_attention(), within:
            forward()
    finally:
        for hook in hooks:
            hook.remove()
    if not runs:
        raise _never_ran()
    for run in runs:
        run.check_complete()


class _Watcher(TorchDispatchMode):
    """Counts the ops of one forward pass and shows the outputs of the watched ones."""

    def __init__(self, sites: Mapping[int, Site], callback: Callback) -> None:
        super().__init__()
        self.sites, self.callback = sites, callback
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        site = self.sites.get(self.count)
        self.count += 1
        if site is not None:
            if str(func) != site.op:
                raise _other_path(site, str(func))
            self.callback(site, output)
        return output

    def check_complete(self) -> None:
        """Raises PruningError where the forward was shorter than the traced one."""
        for index, site in self.sites.items():
            if index >= self.count:
                raise _other_path(site, f"the end, after {self.count} ops")


@contextmanager
def _slow_attention() -> Iterator[None]:
    """The fused attention of inference would hide the ops that the trace has counted."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _other_path(site: Site, got: str) -> PruningError:
    return PruningError(
        message(
            f"op {site.op_index} of the forward must be {site.op}, as in the trace",
            got,
            "a forward that branches on its input or its size, and takes another path on this batch",
            "trace with example inputs that look like the batches (a list of several is joined)",
        )
    )


def _never_ran() -> PruningError:
    return PruningError(
        message(
            "the loss must call the model it is given, so that its activations can be watched",
            "a loss that never ran it",
            "a loss that holds a model of its own, or calls model.forward",
            "write loss=lambda model, batch: …, and call model(…)",
        )
    )
