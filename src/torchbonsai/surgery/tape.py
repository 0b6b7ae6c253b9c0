"""The tape: the ATen ops of a pass under gates, as they ran, over numbered slots in the place of tensors.

`play` runs them again where autograd sees them, for gates on activations are multiplied below autograd;
`recorder.record` makes a `Program` of them, of which any part can be run. A tape holds no activations: a tensor carries
its slot, and only what no op on the tape has made (weights, buffers, inputs) is kept.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from torchbonsai.graph.call import flat_tensors, map_tensors
from torchbonsai.graph.channel_graph import Ints
from torchbonsai.surgery.gates import ActivationGate, GateActivations, GateSites, factor_of, gated_weight
from torchbonsai.surgery.program import Like, Op, Ref, Source, Values, tensors_of

_tokens = itertools.count()


class Tape(GateActivations):
    """Gates of g on activations, and every op written down, those outside of the model too.

    ops: in the order in which they ran, those in place in place. constants: what no op has made, as it was before any
    op wrote into it. sources: what gates decide. roots: slot -> the slot whose memory it lies in.
    """

    def __init__(self, sites: GateSites, g: Tensor) -> None:
        super().__init__(sites, g)
        self.ops: list[Op] = []
        self.sources: list[Source] = []
        self.constants: Values = {}
        self.like: dict[int, Like] = {}
        self.roots: dict[int, int] = {}
        self.written: set[int] = set()
        self.external: dict[int, int] = {}  # id of a tensor in `held` -> slot
        self.held: list[Tensor] = []
        self.token = next(_tokens)  # marks of another tape mean nothing here

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def slot(self, tensor: Tensor) -> int:
        """The slot of a tensor; what no op here has made is a constant."""
        token, slot = getattr(tensor, "_bonsai_slot", (None, None))
        if token != self.token:
            slot = self.external.get(id(tensor))
        if slot is None:
            slot = self.external[id(tensor)] = self._new(tensor)
            self.constants[slot] = tensor.detach()
            self.held.append(tensor)
        return int(slot)

    def weight(self, seen: Tensor, own: Tensor, axis: int, atoms: Ints) -> None:
        """`seen`, which the pass reads, is `own` with one axis under the gates of `atoms`."""
        self.sources.append(Source(self.slot(seen), atoms, partial(gated_weight, own.detach(), axis, atoms)))

    def play(self, g: Tensor, output: Any) -> Any:
        """What `output`, which the pass returned, is at gates g (n_atoms,); once, since ops in place run in place."""
        values = self.constants | {source.slot: source.make(g) for source in self.sources}
        for op in self.ops:
            op.run(values)
        return tree_map_only(Tensor, lambda t: values[self.slot(t)] if self._knows(t) else t, output)

    # ------------------------------------------------------------------ writing down
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = self.gated(func, args, kwargs or {})
        own_args, own_kwargs = map_tensors(lambda t: Ref(self.slot(t)), (args, kwargs))
        inputs = flat_tensors([list(args), kwargs])
        views = any(r.alias_info is not None for r in func._schema.returns)
        if func._schema.is_mutable:
            self._keep(func, args, kwargs)
            out = func(*args, **kwargs)
            writes = [self.slot(t) if any(t is i for i in inputs) else self._made(t) for t in tensors_of(out)]
        else:
            root = self.roots[self.slot(inputs[0])] if views and inputs else None
            out = func(*args, **kwargs)
            writes = [self._made(tensor, root) for tensor in tensors_of(out)]
        self.ops.append(Op(func, tuple(own_args), own_kwargs, tuple(writes), aliases=views))
        return out

    def product(self, gate: ActivationGate, target: Tensor) -> Tensor:
        """The tensor under its gate, as an op of its own."""
        factor, shape = factor_of(gate, target.shape, target.dtype, self.g), tuple(target.shape)
        read = (Ref(self.slot(target)), Ref(self.slot(factor)))
        make = partial(factor_of, gate, shape, target.dtype)
        self.sources.append(Source(read[1].slot, gate.atoms, make))
        product = target * factor
        self.ops.append(Op(torch.ops.aten.mul.Tensor, read, {}, (self._made(product),)))
        return product

    def _keep(self, func: Any, args: Any, kwargs: Any) -> None:
        """Before an op writes into a constant, or a view of one: keep a copy."""
        given = {a.name: value for a, value in zip(func._schema.arguments, args, strict=False)} | kwargs
        for argument in func._schema.arguments:
            if argument.alias_info is not None and argument.alias_info.is_write:
                for root in {self.roots[self.slot(t)] for t in flat_tensors([given.get(argument.name)])}:
                    if root in self.constants and root not in self.written:
                        self.written.add(root)
                        self.constants[root] = self.constants[root].clone()

    def _made(self, tensor: Tensor, root: int | None = None) -> int:
        slot = self._new(tensor, root)
        tensor._bonsai_slot = (self.token, slot)  # type: ignore[attr-defined]
        return slot

    def _new(self, like: Tensor, root: int | None = None) -> int:
        slot = len(self.like)
        self.like[slot] = (like.dtype, tuple(like.shape))
        self.roots[slot] = slot if root is None else root
        return slot

    def _knows(self, tensor: Tensor) -> bool:
        return getattr(tensor, "_bonsai_slot", (None,))[0] == self.token or id(tensor) in self.external
