"""Gates that autograd sees: what a model computes as a function of g, one number an atom, where contractions read it.

Where a contraction has a weight of its own, its gate is W * g, which autograd follows anyway. Where it has none, the
activation that enters it is multiplied, and a dispatch mode cannot do that differentiably: it lies below autograd. So
the forward is run once without gradients, its ATen ops written down, and the same ops are run again, gates between.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from torchbonsai.core.errors import PruningError, message
from torchbonsai.graph.call import flat_tensors, map_tensors
from torchbonsai.graph.channel_graph import ChannelGraph
from torchbonsai.surgery.gates import ActivationGate, GateSites, gate_sites, gated_weights, multiplied


def sites_in(graph: ChannelGraph, train: bool) -> GateSites:
    """The gates of the traced pass in eval or train mode; in train mode the eval pass's where that could not be run."""
    logs = graph.evidence.logs if train and graph.evidence is not None else ()
    return gate_sites(graph, next((log for log in logs if log.training), None))


def gated(sites: GateSites, model: nn.Module, g: Tensor, run: Callable[[nn.Module], Tensor]) -> Tensor:
    """run(model) with every atom multiplied by g (n_atoms,) wherever a contraction reads it; twice differentiable in g.

    `run` calls the model, as often as it likes. Gradients of the parameters are not taken. The model's buffers stay as
    they are. Raises PruningError where the forward takes another path than the trace did.
    """
    own = dict(model.named_parameters())
    held = {n: p.detach() for n, p in own.items()}
    held |= gated_weights(sites, held, g)
    buffers = {n: b.detach().clone() for n, b in model.named_buffers()}
    if not sites.activations:
        return _called(model, run, held | buffers)
    # Which kernels a forward takes depends on whether a weight wants a gradient, so each says what it said when traced.
    seen = {n: t.detach().requires_grad_(own[n].requires_grad) for n, t in held.items()}
    with _replayed(sites, model, g, {id(seen[n]): held[n] for n in held}):
        return _called(model, run, seen | buffers)


def _called(model: nn.Module, run: Callable[[nn.Module], Tensor], tensors: dict[str, Tensor]) -> Tensor:
    result: Tensor = torch.func.functional_call(_Run(model, run), {f"model.{n}": t for n, t in tensors.items()}, ())
    return result


class _Run(nn.Module):
    """Makes `run(model)` a forward, so that parameters are replaced wherever it looks for them."""

    def __init__(self, model: nn.Module, run: Callable[[nn.Module], Tensor]) -> None:
        super().__init__()
        self.model, self.run = model, run
        self.training = model.training

    def forward(self) -> Tensor:
        """run(model)."""
        return self.run(self.model)


@contextmanager
def _replayed(sites: GateSites, model: nn.Module, g: Tensor, made: dict[int, Tensor]) -> Iterator[None]:
    """Inside, every call of `model` returns what its ops compute with the gates between them.

    made: id of a tensor that the forward finds -> what the second run takes for it. Raises PruningError where the model
    is never called.
    """
    within = ExitStack()
    tapes: list[_Tape] = []
    played: list[_Tape] = []

    def enter(*_: Any) -> None:
        within.enter_context(torch.no_grad())
        tapes.append(within.enter_context(_Tape()))

    def leave(module: nn.Module, inputs: Any, output: Any) -> Any:
        within.close()
        played.append(tapes.pop())
        return played[-1].play(sites, g, output, dict(made))

    hooks = (model.register_forward_pre_hook(enter), model.register_forward_hook(leave))
    try:
        with within:
            yield
    finally:
        for hook in hooks:
            hook.remove()
    if not played:
        raise _never_ran()


@dataclass(eq=False)
class _Op:
    """One op as it was called, and the tensors that it returned."""

    func: Any
    args: Any
    kwargs: Any
    outputs: list[Tensor] = field(default_factory=list)


class _Tape(TorchDispatchMode):
    """Writes down the ops of one forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[_Op] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        self.ops.append(_Op(func, args, kwargs, flat_tensors(output)))
        return output

    def play(self, sites: GateSites, g: Tensor, output: Any, made: dict[int, Tensor]) -> Any:
        """Run the ops again under autograd, with the gates, and return what `output` is then. made: grows."""
        gates: dict[int, list[ActivationGate]] = defaultdict(list)
        for gate in sites.activations:
            gates[gate.op_index].append(gate)
        if gates and max(gates) >= len(self.ops):
            raise _other_path(gates[max(gates)][0], f"the end, after {len(self.ops)} ops")
        for number, op in enumerate(self.ops):
            args, kwargs = _renewed([list(op.args), op.kwargs], made, op.func._schema.is_mutable)
            for gate in gates.get(number, ()):
                if str(op.func) != gate.op:
                    raise _other_path(gate, str(op.func))
                args, kwargs = multiplied(gate, args, kwargs, g)
            again = flat_tensors(op.func(*args, **kwargs))
            made |= {id(old): new for old, new in zip(op.outputs, again, strict=True)}
        return tree_map_only(Tensor, lambda t: made.get(id(t), t), output)


def _renewed(value: Any, made: dict[int, Tensor], writes: bool) -> Any:
    """The arguments as the second run has them. What the first run has not made is used as it is, unless `writes`."""

    def renewed(tensor: Tensor) -> Tensor:
        if id(tensor) not in made and writes:
            made[id(tensor)] = tensor.clone()
        return made.get(id(tensor), tensor)

    return map_tensors(renewed, value)


def _other_path(gate: ActivationGate, got: str) -> PruningError:
    return PruningError(
        message(
            f"op {gate.op_index} of the forward must be {gate.op}, as in the trace",
            got,
            "a forward that branches on its input or its size, and takes another path on this batch",
            "trace with example inputs that look like the batches",
        )
    )


def _never_ran() -> PruningError:
    return PruningError(
        message(
            "the loss must call the model it is given",
            "a loss that never ran it as a whole",
            "a loss that holds a model of its own, or calls model.forward or parts of the model",
            "write loss=lambda model, batch: …, and call model(…)",
        )
    )
