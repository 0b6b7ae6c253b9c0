"""Gates: a multiplier for every atom, at the inputs of every contraction. One mechanism for masks and learned gates.

Where the contraction has a parameter of its own, the gate is its weight times g along the bound input axis, so no hook
and no wrapped module is needed and autograd works; where it has none (a product of two activations, a sum over
channels, a transformed weight), the activation that enters it is multiplied, under a dispatch mode.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from torchbonsai.core.errors import PlanError, message
from torchbonsai.graph.call import flat_tensors
from torchbonsai.graph.channel_graph import FROZEN, Bools, ChannelGraph, Ints, Output
from torchbonsai.graph.evidence import Evidence
from torchbonsai.graph.forward import Example, alias_copy
from torchbonsai.graph.labels import LabelSpace, Solution
from torchbonsai.graph.outputs import note_returned, outputs_of
from torchbonsai.graph.record import Log
from torchbonsai.graph.trace import forward, module_names, named_tensors, shadow_tensor
from torchbonsai.graph.tracer import Tracer


@dataclass(frozen=True, eq=False)
class ActivationGate:
    """Multiply tensor argument `operand` of op `op_index` by g[atoms] along `axes` (FROZEN: by one)."""

    op_index: int
    op: str
    operand: int
    axes: tuple[int, ...]
    atoms: Ints


@dataclass(frozen=True, eq=False)
class GateSites:
    """Where the gates of one forward pass sit.

    weights: parameter -> (axis, atoms). activations: for contractions without a plain weight of their own. outputs: the
    atoms of what the pass returns, of which only the kept ones are compared.
    """

    weights: dict[str, tuple[int, Ints]]
    activations: list[ActivationGate]
    outputs: tuple[Output, ...] = ()


def gate_sites(graph: ChannelGraph, log: Log | None = None, solution: Solution | None = None) -> GateSites:
    """The gates of the pass that `log` describes; default: the first eval pass of the trace.

    solution: of the labels in `log`, where it is not one of the trace's own passes. A graph written by hand, which no
    trace stands behind, has its gates at the weights that its bindings call consumers.
    """
    if graph.evidence is None:
        return _of_bindings(graph)
    evidence: Evidence = graph.evidence
    log, solution = log or evidence.logs[0], solution or evidence.solution
    number = atom_numbers(graph, solution)
    plain = _plain_weights(log)
    weights: dict[str, tuple[int, Ints]] = {}
    activations: list[ActivationGate] = []
    for index, record in enumerate(log.records):
        for c in record.consumed:
            atoms = number[solution.component[c.labels]]
            if (atoms == FROZEN).all():
                continue
            held = graph.axes.get(c.weight or "", {}).get(c.weight_axis)
            if c.weight is not None and c.weight in plain and held is not None:
                weights[c.weight] = (c.weight_axis, held)
            else:
                activations.append(ActivationGate(index, record.name, c.operand, c.axes, atoms))
    return GateSites(weights, activations, outputs_of(log, number, solution.component))


def atom_numbers(graph: ChannelGraph, solution: Solution) -> Ints:
    """(components,) the atom of every component of `solution`, FROZEN where none."""
    number = np.full(solution.why.size, FROZEN, dtype=np.int64)
    for name, axes in graph.axes.items():
        for axis, atoms in axes.items():
            number[solution.component[graph.evidence.labels[name][axis]]] = atoms
    return number


def sites_in(graph: ChannelGraph, train: bool) -> GateSites:
    """The gates of the traced pass in eval or train mode; in train mode the eval pass's where that could not be run."""
    logs = graph.evidence.logs if train and graph.evidence is not None else ()
    return gate_sites(graph, next((log for log in logs if log.training), None))


def _of_bindings(graph: ChannelGraph) -> GateSites:
    bound = {b.name: b.axis for g in graph.groups for b in g.bound("consumes")}
    return GateSites({name: (axis, graph.axes[name][axis]) for name, axis in bound.items()}, [])


def reached(sites: GateSites, n_atoms: int) -> Bools:
    """(n_atoms,) does any gate stand for the atom? None does for what only the caller of the model reads."""
    found = np.zeros(n_atoms, dtype=bool)
    for atoms in (*(a for _, a in sites.weights.values()), *(gate.atoms for gate in sites.activations)):
        found[atoms[atoms != FROZEN]] = True
    return found


def sites_of_pass(graph: ChannelGraph, model: nn.Module, example: Example, hollow: bool = False) -> GateSites:
    """The gates of `model`'s eval forward on `example`, found by tracing that very pass.

    A copy in another dtype may take other kernels and so run other ops than the traced one. hollow: go without values
    where the forward does not look at them.
    """
    if hollow:
        try:
            return _sites_of_pass(graph, model, example, True)
        except Exception:  # noqa: BLE001 - the pass below runs for real, and says what is wrong
            pass
    return _sites_of_pass(graph, model, example, False)


def _sites_of_pass(graph: ChannelGraph, model: nn.Module, example: Example, hollow: bool) -> GateSites:
    evidence: Evidence = graph.evidence
    known = evidence.space
    space = LabelSpace(known.count, list(known.starts), list(known.owners), list(known.edges), list(known.frozen))
    copy = alias_copy(model).eval()
    for name, tensor in named_tensors(copy):
        if name in evidence.labels:
            shadow_tensor(tensor, name, dict(evidence.labels[name]))
    tracer = Tracer(space, Log(False, hollow=hollow), module_names(copy), evidence.parameters, evidence.blocks)
    note_returned(tracer.log, forward(copy, example, tracer))
    return gate_sites(graph, tracer.log, space.solve())


def _plain_weights(log: Log) -> set[str]:
    """Parameters that the forward reads in one role only: as the weight of contractions along one and the same axis."""
    used: dict[str, set[int]] = defaultdict(set)
    for record in log.records:
        if record.kind == "layout":
            continue
        gated: dict[str, set[int]] = defaultdict(set)
        for c in record.consumed:
            if c.weight is not None:
                gated[c.weight].add(c.weight_axis)
        for shadow in record.inputs:
            if shadow.leaf is not None:
                used[shadow.leaf] |= gated.get(shadow.leaf, {-1})
    return {name for name, axes in used.items() if len(axes) == 1 and -1 not in axes}


def gated_weights(sites: GateSites, tensors: dict[str, torch.Tensor], g: torch.Tensor) -> dict[str, torch.Tensor]:
    """W * g for every gated parameter; `tensors`: name -> W, `g`: (n_atoms,) on W's device."""
    gated: dict[str, torch.Tensor] = {}
    for name, (axis, atoms) in sites.weights.items():
        gated[name] = gated_weight(tensors[name], axis, atoms, g)
        if not torch.is_grad_enabled():  # matmul takes other kernels for a weight that needs no gradient
            gated[name].requires_grad_(tensors[name].requires_grad)
    return gated


def gated_weight(weight: torch.Tensor, axis: int, atoms: Ints, g: torch.Tensor) -> torch.Tensor:
    """W * g along one axis, whose positions are `atoms`; g: (n_atoms,)."""
    shape = [1] * weight.dim()
    shape[axis] = -1
    return weight * expand(g, atoms).to(weight.dtype).reshape(shape)


def expand(g: torch.Tensor, atoms: Ints) -> torch.Tensor:
    """g[atoms], one where FROZEN; the shape of `atoms`."""
    with_one = torch.cat([g, g.new_ones(1)])
    return with_one[torch.from_numpy(atoms.astype(np.int64)).to(g.device)]


class GateActivations(TorchDispatchMode):
    """Multiplies the activations that `sites` names, counting ops exactly as the tracer did.

    count: ops of the model's pass so far; None outside of the model, where nothing is gated.
    """

    def __init__(self, sites: GateSites, g: torch.Tensor) -> None:
        super().__init__()
        self.count: int | None = 0
        self.gates: dict[int, list[ActivationGate]] = defaultdict(list)
        for gate in sites.activations:
            self.gates[gate.op_index].append(gate)
        self.g = g

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = self.gated(func, args, kwargs or {})
        return func(*args, **kwargs)

    def gated(self, func: Any, args: Any, kwargs: Any) -> Any:
        """[args, kwargs] of the next op, its activations multiplied. Raises PlanError where it is another op."""
        if self.count is None:
            return [args, kwargs]
        for gate in self.gates.get(self.count, ()):
            if str(func) != gate.op:
                raise _other_path(gate, str(func))
            target = flat_tensors([list(args), kwargs])[gate.operand]
            args, kwargs = _replace([list(args), kwargs], target, self.product(gate, target))
        self.count += 1
        return [args, kwargs]

    def product(self, gate: ActivationGate, target: torch.Tensor) -> torch.Tensor:
        """The tensor under its gate."""
        return target * factor_of(gate, target.shape, target.dtype, self.g)

    def begin(self) -> None:
        """A pass of the model begins."""
        self.count = 0

    def finish(self) -> None:
        """The model's pass is over. Raises PlanError where it ended before all gates were met."""
        done, self.count = self.count or 0, None
        if self.gates and max(self.gates) >= done:
            raise _other_path(self.gates[max(self.gates)][0], f"the end, after {done} ops")


def factor_of(gate: ActivationGate, shape: Sequence[int], dtype: torch.dtype, g: torch.Tensor) -> torch.Tensor:
    """What the gate multiplies a tensor of `shape` by: g (n_atoms,) laid along the gate's axes."""
    atoms = gate.atoms.transpose(tuple(np.argsort(gate.axes)))
    return expand(g, atoms).reshape([n if a in gate.axes else 1 for a, n in enumerate(shape)]).to(dtype)


def _other_path(gate: ActivationGate, got: str) -> PlanError:
    return PlanError(
        message(
            f"op {gate.op_index} of the forward must be {gate.op}, as in the trace",
            got,
            "a forward that branches on its input or its size, and takes another path on this input",
            "pass an example of each path: tb.trace(model, [example, other_example])",
        )
    )


def _replace(value: Any, old: torch.Tensor, new: torch.Tensor) -> Any:
    if value is old:
        return new
    if isinstance(value, list | tuple):
        return type(value)(_replace(v, old, new) for v in value)
    return {k: _replace(v, old, new) for k, v in value.items()} if isinstance(value, dict) else value


def run_gated(sites: GateSites, model: nn.Module, example: Example, g: torch.Tensor) -> Any:
    """model(example) with every atom multiplied by g (n_atoms,) wherever a contraction reads it."""
    gated = gated_weights(sites, dict(model.named_parameters()), g)  # before the mode, which counts ops
    args, kwargs = example
    with GateActivations(sites, g):
        return torch.func.functional_call(model, gated, args, kwargs)
