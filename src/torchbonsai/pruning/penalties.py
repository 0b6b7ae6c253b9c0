"""Penalties for training towards sparsity: a scalar for the user's own loss, from bindings, for any architecture.

    penalty = tb.penalties.GroupLasso(graph)
    loss = criterion(model(x), y) + 1e-4 * penalty(model)

A penalty holds names and positions, no tensors of the model; it reads the parameters of whatever model it is given
(the traced one, a copy, one in DistributedDataParallel or torch.compile), and autograd does the rest: no hooks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchbonsai.core.errors import ConfigError, message
from torchbonsai.graph.affine import affine
from torchbonsai.graph.channel_graph import FROZEN, ChannelGraph, Ints, Role, Selection

ROLES: tuple[Role, ...] = ("produces", "follows")


class BatchNormL1:
    """Σ |γ| over the scales of batch norm whose channels can be removed.

    Liu, Li, Shen, Huang, Yan, Zhang: Learning Efficient Convolutional Networks through Network Slimming (ICCV 2017,
    section 3.2), with a factor of 1e-4 or 1e-5; `tb.criteria.BatchNormScale` then scores by |γ|. The paper penalises
    every scale; here those of frozen channels are left out. Raises ConfigError where the graph has none.

    >>> import torch, torchbonsai as tb
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2))
    >>> penalty = tb.penalties.BatchNormL1(tb.trace(net, torch.randn(4, 2)))
    >>> penalty(net).item()
    3.0
    """

    def __init__(self, graph: ChannelGraph) -> None:
        held = ((name, graph.axes.get(name, {}).get(0)) for name in affine(graph).batch_scales)
        self._places = {name: _Index(np.flatnonzero(a != FROZEN)) for name, a in held if a is not None}
        if not self._places:
            raise _nothing("scales of batch norm", "a network without batch norm, or whose norms have no scale")
        self._shapes = {name: graph.shapes[name] for name in self._places}

    def __call__(self, model: nn.Module) -> Tensor:
        """A scalar, ≥ 0, differentiable in the model's scales."""
        tensors = _parameters(model, self._shapes)
        return _sum(tensors[name][place.on(tensors[name])].abs().sum() for name, place in self._places.items())


class GroupLasso:
    """Σ over channels of √(its number of weights) · the Euclidean norm of all its weights together.

    Yuan, Lin: Model selection and estimation in regression with grouped variables (2006); on filters of networks Wen,
    Wu, Wang, Chen, Li: Learning Structured Sparsity in Deep Neural Networks (NIPS 2016). A channel's weights are its
    slices of parameters in the given roles: by default what makes it ("produces") and what goes with it ("follows":
    biases, scales and shifts of norms, depthwise weights), of all layers that a residual stream ties together.
    by_size=False leaves the root out. The gradient of a channel that is exactly zero is zero.

    >>> import torch, torchbonsai as tb
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))
    >>> with torch.no_grad():
    ...     _ = net[0].weight.fill_(1), net[0].bias.fill_(1)
    >>> penalty = tb.penalties.GroupLasso(tb.trace(net, torch.randn(1, 3)))
    >>> penalty(net).item()  # two channels of four ones: 2 · √4 · √4
    8.0
    """

    def __init__(self, graph: ChannelGraph, *, roles: Iterable[Role] = ROLES, by_size: bool = True) -> None:
        self._slices = _Slices(graph, tuple(roles))
        sizes = self._slices.sizes(graph)
        self._weights = _Constant(np.sqrt(sizes) if by_size else np.minimum(sizes, 1.0))

    def __call__(self, model: nn.Module) -> Tensor:
        """A scalar, ≥ 0, differentiable in the model's parameters."""
        squares = self._slices.squares(model)
        some = squares > 0  # √0 has no gradient
        norms = torch.where(some, torch.where(some, squares, 1.0).sqrt(), 0.0)
        return (self._weights.on(norms) * norms).sum()


class GrowingL2:
    """½ · factor · Σ of the squared weights of the channels that are to go; the factor grows with the steps.

    Wang, Qin, Zhang, Fu: Neural Pruning via Growing Regularization (ICLR 2021, arXiv 2012.09243), its first algorithm
    (GReg-1): channels are chosen first, then driven out by an L2 penalty on them alone, whose factor grows by `grow`
    every `every` steps up to `ceiling`. `selection`: {group: (n atoms,) bool, True = keep}, as in
    `tb.prune(…).selection`. The paper grows it by 1e-4 every 10 steps (5 on ImageNet) up to 1, with plain weights; here
    all slices of `roles` are driven out, by default norms and biases, too. Call `step()` once a training step.

    >>> import torch, torchbonsai as tb
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))
    >>> with torch.no_grad():
    ...     _ = net[0].weight.fill_(1), net[0].bias.fill_(1)
    >>> graph = tb.trace(net, torch.randn(1, 3))
    >>> penalty = tb.penalties.GrowingL2(graph, {"0": [False, True]}, grow=0.5, every=1)
    >>> penalty(net).item()  # before the first step
    0.0
    >>> penalty.step()
    >>> penalty(net).item()  # one channel of four ones: ½ · 0.5 · 4
    1.0
    """

    def __init__(
        self,
        graph: ChannelGraph,
        selection: Selection | Mapping[str, Any],
        *,
        grow: float = 1e-4,
        every: int = 10,
        ceiling: float = 1.0,
        roles: Iterable[Role] = ROLES,
    ) -> None:
        if not 0 < grow < math.inf or not 0 < ceiling < math.inf or isinstance(every, bool) or every < 1:
            got = f"grow={grow!r}, every={every!r}, ceiling={ceiling!r}"
            must = "grow and ceiling must be positive numbers, every a positive int"
            raise ConfigError(message(must, got, "a typing error", "GrowingL2(graph, selection)"))
        self.grow, self.every, self.ceiling, self.steps = grow, every, ceiling, 0
        self._slices = _Slices(graph, tuple(roles))
        self._going = _Constant(1.0 - graph.keep({n: np.asarray(m, dtype=bool) for n, m in selection.items()}))

    @property
    def factor(self) -> float:
        """min(ceiling, grow · ⌊steps / every⌋)."""
        return min(self.ceiling, self.grow * (self.steps // self.every))

    def step(self) -> None:
        """One training step is over."""
        self.steps += 1

    def __call__(self, model: nn.Module) -> Tensor:
        """A scalar, ≥ 0, differentiable in the model's parameters."""
        squares = self._slices.squares(model)
        return self.factor / 2 * (self._going.on(squares) * squares).sum()

    def state_dict(self) -> dict[str, int]:
        """What a broken-off training needs to go on."""
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where `state_dict` was taken."""
        self.steps = int(state["steps"])


class _Constant:
    """An array as a tensor, made once for every device and dtype."""

    def __init__(self, values: Any) -> None:
        self.values = torch.as_tensor(np.ascontiguousarray(values))
        self._made: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def on(self, like: Tensor) -> Tensor:
        """The array on `like`'s device, of its dtype."""
        key = (like.device, self._dtype(like))
        if key not in self._made:
            self._made[key] = self.values.to(*key)
        return self._made[key]

    def _dtype(self, like: Tensor) -> torch.dtype:
        return like.dtype


class _Index(_Constant):
    """The same for positions, which stay integers."""

    def _dtype(self, like: Tensor) -> torch.dtype:
        return torch.int64


class _Slices:
    """For every atom, its slices of parameters in some roles; a tied parameter counts once."""

    def __init__(self, graph: ChannelGraph, roles: tuple[Role, ...]) -> None:
        self.n_atoms = graph.n_atoms
        unknown = set(roles) - {"produces", "follows", "consumes"}
        if unknown or not roles:
            must = "roles must be some of 'produces', 'follows', 'consumes'"
            raise ConfigError(message(must, repr(roles), "a typing error", "leave it out for what makes a channel"))
        found: dict[tuple[str, int], Ints] = {}
        for group in graph.groups:
            for b in (b for role in roles for b in group.bound(role)):
                if b.name in graph.parameters and graph.aliases.get(b.name, b.name) == b.name:
                    found[b.name, b.axis] = graph.axes[b.name][b.axis]
        if not found:
            raise _nothing("slices of parameters in these roles", "a network without channels to remove")
        self.places = {
            key: (_Index(np.flatnonzero(atoms != FROZEN)), _Index(atoms[atoms != FROZEN]))
            for key, atoms in found.items()
        }
        self.shapes = {name: graph.shapes[name] for name, _ in found}

    def squares(self, model: nn.Module) -> Tensor:
        """(n_atoms,) the sum of the squared entries of each atom's slices."""
        tensors = _parameters(model, self.shapes)
        some = next(iter(tensors.values()))
        total = torch.zeros(self.n_atoms, dtype=torch.promote_types(some.dtype, torch.float32), device=some.device)
        for (name, axis), (positions, atoms) in self.places.items():
            squares = tensors[name].to(total.dtype).square()
            others = [a for a in range(squares.ndim) if a != axis]
            rows = squares.sum(others) if others else squares
            total = total.index_add(0, atoms.on(total), rows[positions.on(total)])
        return total

    def sizes(self, graph: ChannelGraph) -> Any:
        """(n_atoms,) float64, how many entries each atom has."""
        total = np.zeros(self.n_atoms)
        for (name, axis), (_, atoms) in self.places.items():
            shape = graph.shapes[name]
            np.add.at(total, atoms.values.numpy(), math.prod(shape) / shape[axis])
        return total


def _parameters(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The parameters of those names, also inside DistributedDataParallel.

    Raises ConfigError where one is not there, or has another shape than when it was traced: positions in it are no
    longer those of the same channels.
    """
    inner = model.module if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel) else model
    try:
        found = {name: inner.get_parameter(name) for name in shapes}
    except AttributeError as error:
        raise _another(inner, str(error)) from error
    for name, tensor in found.items():
        if tuple(tensor.shape) != tuple(shapes[name]):
            raise _another(inner, f"{name} of shape {tuple(tensor.shape)}, traced with {tuple(shapes[name])}")
    return found


def _another(model: nn.Module, got: str) -> ConfigError:
    return ConfigError(
        message(
            "a penalty needs the model that was traced, or one with parameters of the same names and shapes",
            f"{type(model).__name__}: {got}",
            "another model, or one that was pruned or changed since",
            "make the penalty anew from a trace of this model",
        )
    )


def _sum(parts: Iterable[Tensor]) -> Tensor:
    return torch.stack([*parts]).sum()


def _nothing(what: str, cause: str) -> ConfigError:
    return ConfigError(message(f"a penalty needs {what}", "none", cause, "see graph.explain()"))
