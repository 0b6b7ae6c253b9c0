"""`check_rule`: is a rule of one's own right? Numbers decide."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from torchbonsai.core.errors import VerificationError, message
from torchbonsai.graph.blocks import Asked
from torchbonsai.graph.trace import observe
from torchbonsai.surgery.settle import Settler
from torchbonsai.surgery.verify import verify


class _Around(nn.Module):
    """A convolution, the op, a convolution: the smallest network in which the op has channels to lose."""

    def __init__(self, op: Callable[[torch.Tensor], torch.Tensor], channels: int) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, channels, 3, padding=1)
        with torch.no_grad():
            out = op(self.before(torch.zeros(1, 3, 8, 8)))
        self.after = nn.Conv2d(out.shape[1], 5, 1)
        self.op = op

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 3, h, w) -> (n, 5, h', w')."""
        return self.after(self.op(self.before(x)))


def check_rule(op: Callable[[torch.Tensor], torch.Tensor], *, channels: int = 12, cuts: int = 5) -> None:
    """Prune around `op` and compare with the masked network, `cuts` times.

    op: (n, c, h, w) -> (n, c', h', w'), on the CPU and in float64 too. Raises VerificationError where the small
    network differs or the rule lets nothing go, PlanError where the routing cannot be proved.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net, x = _Around(op, channels).eval(), torch.randn(2, 3, 8, 8)
    for seed in range(cuts):
        graph = observe(net, x)
        generator = np.random.default_rng(seed)
        settler = Settler(net, x, graph, lambda hollow, blocks: observe(net, x, hollow, Asked(blocks=blocks)))
        for _ in range(20):
            if not graph.groups:
                raise _nothing(graph.explain())
            kept = np.ones(graph.n_atoms, dtype=bool)
            for g in graph.groups:
                kept[g.offset + generator.permutation(g.size)[: g.size // 2]] = False
            settled = settler.settle(graph, kept)
            if settled.plan is not None and settled.small is not None:
                verify(settled.graph, settled.plan, kept, net, settled.small, x)
                break
            graph = settled.graph


def _nothing(explained: str) -> VerificationError:
    return VerificationError(
        message(
            "A rule should let channels go through its op.",
            explained,
            "the rule gives its output no labels, or freezes all of them",
            "give the output the input's fields, moved as the op moves channels",
        )
    )
