"""Recording a loss under gates of one, op by op, into a `Program`; what cannot be replayed faithfully is refused.

Writes in place become new values: that is the same as long as nobody reads the old value, or another view of its
memory, afterwards, which is checked. Refused: random ops, writes into parameters, buffers and inputs, `out=`, and
values behind a gate that Python reads (`.item()`, a branch) or that decide a shape. What leaves PyTorch unseen
(`.numpy()`, `.tolist()`) is not seen here either: compare with a full forward at a drawn mask.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from torchbonsai.core.errors import PruningError, message
from torchbonsai.graph.call import flat_tensors, map_tensors
from torchbonsai.graph.channel_graph import Ints
from torchbonsai.surgery.gated import GatedLoss, around_model, checked_scalar
from torchbonsai.surgery.gates import ActivationGate, expand
from torchbonsai.surgery.program import Like, Op, Program, Ref, Source, UnreplayableError, needed, tainted

_SILENT = ("aten::_assert", "profiler::")
_tokens = itertools.count()
_VALUE_DECIDES = frozenset({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape})


def record(gated: GatedLoss, batch: Any) -> Program:
    """The program of `gated(batch, ones)`. Raises UnreplayableError where it cannot be replayed faithfully."""
    recorder = _Recorder(gated)
    weights = recorder.weight_sources(gated)
    runs = [0]

    def enter() -> None:
        runs[0] += 1
        recorder.inside, recorder.count = True, 0

    with around_model(gated.model, enter, recorder.leave), recorder:
        out = gated.run(batch, weights)
    return recorder.program(checked_scalar(out, runs[0]))


class _Recorder(TorchDispatchMode):
    """Counts the ops of the model as the tracer did, so that gates on activations find their op."""

    def __init__(self, gated: GatedLoss) -> None:
        super().__init__()
        self.ops: list[Op] = []
        self.sources: list[Source] = []
        self.constants: dict[int, Tensor] = {}
        self.like: dict[int, Like] = {}
        self.roots: dict[int, int] = {}  # slot -> the slot whose memory it lies in
        self.overwritten: list[tuple[int, int]] = []  # (number of the op, root of what it wrote into)
        self.peeks: list[Op] = []
        self.external: dict[int, int] = {}  # id of a tensor held in `constants` or `held` -> slot
        self.held: list[Tensor] = []
        self.inside, self.count = False, 0
        self.token = next(_tokens)  # marks of another recording mean nothing here
        self.gates: dict[int, list[ActivationGate]] = defaultdict(list)
        for gate in gated.sites.activations:
            self.gates[gate.op_index].append(gate)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    # ------------------------------------------------------------------ slots
    def weight_sources(self, gated: GatedLoss) -> dict[str, Tensor]:
        """The gated parameters at gates of one, each the value of a source."""
        device = next(iter(flat_tensors(list(gated.model.parameters())))).device
        weights = gated.weights(torch.ones(gated.graph.n_atoms, device=device))
        for name, weight in weights.items():
            axis, atoms = gated.sites.weights[name]
            shape = [1] * weight.dim()
            shape[axis] = -1
            plain = weight.detach()
            self.sources.append(Source(self._known(weight), atoms, partial(_scaled, plain, atoms, tuple(shape))))
        return weights

    def _new(self, like: Tensor, root: int | None = None) -> int:
        slot = len(self.like)
        self.like[slot] = (like.dtype, tuple(like.shape))
        self.roots[slot] = slot if root is None else root
        return slot

    def _known(self, tensor: Tensor) -> int:
        """The slot of a tensor; what no op here has made is a constant."""
        token, slot = getattr(tensor, "_bonsai_slot", (None, None))
        if token != self.token:
            slot = self.external.get(id(tensor))
        if slot is None:
            slot = self.external[id(tensor)] = self._new(tensor)
            self.constants[slot] = tensor.detach()
            self.held.append(tensor)
        return int(slot)

    def _mark(self, tensor: Tensor, slot: int) -> None:
        tensor._bonsai_slot = (self.token, slot)  # type: ignore[attr-defined]

    def leave(self) -> None:
        """The model's own ops are over."""
        self.inside = False

    # ------------------------------------------------------------------ ops
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        names = self._gate(func, args, kwargs) if self.inside and self.count in self.gates else {}
        self.count += 1
        template = map_tensors(lambda t: Ref(names[id(t)] if id(t) in names else self._known(t)), (args, kwargs))
        if _draws(func, args, kwargs):
            raise UnreplayableError(f"{func} draws random numbers")
        if func._schema.is_mutable:
            return self._write(func, args, kwargs, template)
        out = func(*args, **kwargs)
        views = any(r.alias_info is not None for r in func._schema.returns)
        first = next(iter(flat_tensors([list(args), kwargs])), None)
        root = self.roots[self._known(first)] if views and first is not None else None
        writes = []
        for tensor in flat_tensors(out if isinstance(out, list | tuple) else [out]):
            writes.append(self._new(tensor, root))
            self._mark(tensor, writes[-1])
        op = Op(func, tuple(template[0]), template[1], tuple(writes), aliases=views)
        if writes:
            self.ops.append(op)
        if _VALUE_DECIDES & set(func.tags) or (not writes and not func.name().startswith(_SILENT)):
            self.peeks.append(op)
        return out

    def _write(self, func: Any, args: Any, kwargs: Any, template: Any) -> Any:
        """An op in place: a new value of the tensor it writes into."""
        written = [
            i for i, a in enumerate(func._schema.arguments) if a.alias_info is not None and a.alias_info.is_write
        ]
        if written != [0] or not isinstance(args[0], Tensor):
            raise UnreplayableError(f"{func} writes elsewhere than into its first argument")
        old = self._known(args[0])
        if self.roots[old] in self.constants:
            raise UnreplayableError(f"{func} writes into a parameter, a buffer or an input")
        out = func(*args, **kwargs)
        self.overwritten.append((len(self.ops), self.roots[old]))
        new = self._new(args[0])
        self._mark(args[0], new)
        mixed = any(t.dtype != args[0].dtype for t in flat_tensors([list(args), kwargs]))
        self.ops.append(Op(_out_of_place(func, mixed), tuple(template[0]), template[1], (new,)))
        return out

    def _gate(self, func: Any, args: Any, kwargs: Any) -> dict[int, int]:
        """Multiply activations by their factor before the op reads them: id of the tensor -> slot of the product."""
        names: dict[int, int] = {}
        for gate in self.gates[self.count]:
            if str(func) != gate.op:
                raise _other_path(gate, str(func))
            target = flat_tensors([list(args), kwargs])[gate.operand]
            shape = tuple(target.shape[a] if a in gate.axes else 1 for a in range(target.dim()))
            atoms = gate.atoms.transpose(tuple(np.argsort(gate.axes)))
            ones = torch.ones(shape, dtype=target.dtype, device=target.device)
            factor = self._known(ones)
            self.sources.append(Source(factor, atoms, partial(_scaled, ones, atoms, shape)))
            product = self._new(target)
            before = names.get(id(target), self._known(target))
            self.ops.append(Op(torch.ops.aten.mul.Tensor, (Ref(before), Ref(factor)), {}, (product,)))
            names[id(target)] = product
        return names

    # ------------------------------------------------------------------ the end
    def program(self, loss: Tensor) -> Program:
        """What was recorded. Raises UnreplayableError."""
        output = self._known(loss)
        for number, root in self.overwritten:
            later = {slot for op in self.ops[number + 1 :] for slot in op.reads} | {output}
            if any(self.roots[slot] == root for slot in later):
                raise UnreplayableError("memory that was written into in place is read through another view")
        behind = tainted([*self.ops, *self.peeks], [s.slot for s in self.sources])
        for op in self.peeks:
            if behind.intersection(op.reads):
                raise UnreplayableError(f"{op.func} makes a value behind a gate decide a branch or a shape")
        ops = needed(self.ops, output)
        slots = {slot for op in ops for slot in op.reads} | {output}
        constants = {slot: value for slot, value in self.constants.items() if slot in slots}
        return Program(ops, constants, self.sources, output, self.like)


def _draws(func: Any, args: Any, kwargs: Any) -> bool:
    """Does the op draw random numbers? Fused attention does where its dropout is not zero."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    given = {a.name: value for a, value in zip(func._schema.arguments, args, strict=False)} | kwargs
    names = {a.name for a in func._schema.arguments}
    return "dropout_p" not in names or bool(given.get("dropout_p", 0.0))


def _scaled(value: Tensor, atoms: Ints, shape: tuple[int, ...], g: Tensor) -> Tensor:
    """value * g[atoms], with g one where FROZEN."""
    return value * expand(g, atoms).to(value.dtype).reshape(shape)


def _out_of_place(func: Any, mixed: bool) -> Any:
    """The op that returns what `func` would have written; of mixed dtypes, it would promote where `func` does not."""
    if mixed:
        return partial(_on_a_copy, func)
    space, _, name = func._schema.name.partition("::")
    packet = getattr(getattr(torch.ops, space), name.removesuffix("_"), None) if name.endswith("_") else None
    other = getattr(packet, func._overloadname, None) if packet is not None else None
    return other if other is not None and not other._schema.is_mutable else partial(_on_a_copy, func)


def _on_a_copy(func: Any, first: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    copy = first.clone()
    func(copy, *args, **kwargs)
    return copy


def _other_path(gate: ActivationGate, got: str) -> PruningError:
    return PruningError(
        message(
            f"op {gate.op_index} of the forward must be {gate.op}, as in the trace",
            got,
            "a forward that branches on its input or its size, and takes another path on this batch",
            "trace with example inputs that look like the batches (a list of several is joined)",
        )
    )
