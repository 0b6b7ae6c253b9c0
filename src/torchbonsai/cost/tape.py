"""One real eval forward, op by op: which memory each op's outputs take, when it is given back, what the layers are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from torchbonsai.core.errors import TraceError, message
from torchbonsai.cost.layer import Layer, layer_of
from torchbonsai.graph.call import flat_tensors, map_tensors
from torchbonsai.graph.channel_graph import FROZEN, ChannelGraph, Ints
from torchbonsai.graph.forward import alias_copy, as_examples, draw_alike, undisturbed, unwrap
from torchbonsai.graph.labels import Fields
from torchbonsai.graph.record import OpRecord
from torchbonsai.graph.rules import registry
from torchbonsai.graph.trace import named_tensors


@dataclass(frozen=True)
class Block:
    """Memory that one op took for an output: bytes of the dense network.

    born, dies: numbers of the ops that make it and before which it is given back; a block that is returned, or lives
    on, dies after the last op. output: which output of its op lies in it.
    """

    born: int
    output: int
    bytes: int
    dies: int


@dataclass(frozen=True, eq=False)
class Tape:
    """ops: names, in order. blocks: in the order of their birth.

    layers: op number -> (the layer that it runs, its operand), see `layer_of`.
    """

    ops: tuple[str, ...]
    blocks: tuple[Block, ...]
    layers: dict[int, tuple[Layer, int]]


def record(model: nn.Module, example_inputs: Any) -> Tape:
    """Run `model` once, in eval mode and on a copy, on the (first) example. The random state stays as found."""
    args, kwargs = as_examples(example_inputs)[0]
    copy = alias_copy(unwrap(model)).eval()
    args, kwargs = map_tensors(lambda t: t.detach().clone(), (args, kwargs))
    recorder = _Recorder([*(t for _, t in named_tensors(copy)), *flat_tensors([args, kwargs])])
    with undisturbed(model):
        draw_alike()
        with recorder:
            returned = copy(*args, **kwargs)
    del returned
    return recorder.tape()


class _Recorder(TorchDispatchMode):
    """Weak references to storages tell when the framework has given them back."""

    def __init__(self, given: list[torch.Tensor]) -> None:
        super().__init__()
        self.given = {t.untyped_storage()._cdata: StorageWeakRef(t.untyped_storage()) for t in given}
        self.ops: list[str] = []
        self.layers: dict[int, tuple[Layer, int]] = {}
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.made: list[tuple[int, int, int]] = []
        self.dies: dict[int, int] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        number = len(self.ops)
        self._sweep(number)
        out = func(*args, **kwargs)
        self.ops.append(registry.known(func).name)
        layer = layer_of(func, args, kwargs, out)
        if layer is not None:
            self.layers[number] = layer
        for k, tensor in enumerate(flat_tensors(out)):
            storage = tensor.untyped_storage()
            if storage._cdata not in self.live and storage._cdata not in self.given and storage.nbytes():
                self.live[storage._cdata] = (StorageWeakRef(storage), len(self.made))
                self.made.append((number, k, storage.nbytes()))
        return out

    def _sweep(self, number: int) -> None:
        """What was given back since the last op; its address may be taken again from now on."""
        for address, (held, block) in list(self.live.items()):
            if held.expired():
                self.dies[block] = number
                del self.live[address]

    def tape(self) -> Tape:
        """What was seen."""
        end = len(self.ops)
        blocks = (Block(born, k, size, self.dies.get(i, end)) for i, (born, k, size) in enumerate(self.made))
        return Tape(tuple(self.ops), tuple(blocks), self.layers)


class Labelled:
    """The ops of a tape beside what the trace of the same network knows of them: which axes hold which atoms."""

    def __init__(self, graph: ChannelGraph, tape: Tape) -> None:
        """Raises TraceError where the two passes did not run the same ops."""
        self.graph, self.tape = graph, tape
        evidence = graph.evidence
        self.records: list[OpRecord] = [] if evidence is None else evidence.logs[0].records
        seen = tuple(r.name for r in self.records)
        if seen != tape.ops:
            raise _other_ops(seen, tape.ops)
        self._component: Ints = evidence.solution.component
        self._number = np.full(self._component.max() + 1, FROZEN, dtype=np.int64)
        for name, axes in graph.axes.items():
            for axis, atoms in axes.items():
                self._number[self._component[evidence.labels[name][axis]]] = atoms

    def atoms(self, labels: Ints) -> Ints:
        """(labels,) the atom of each, FROZEN where it always stays."""
        return self._number[self._component[labels]].ravel()

    def extents(self, fields: Fields) -> list[Ints]:
        """The atoms along each labelled part of a tensor."""
        return [self.atoms(field.labels) for field in fields]

    def along(self, fields: Fields, axis: int) -> Ints | None:
        """The atoms along one axis alone; None where it carries no labels, or shares them with another axis."""
        return next((self.atoms(field.labels) for field in fields if field.axes == (axis,)), None)


def _other_ops(traced: tuple[str, ...], run: tuple[str, ...]) -> TraceError:
    at = next((i for i, (a, b) in enumerate(zip(traced, run, strict=False)) if a != b), min(len(traced), len(run)))
    return TraceError(
        message(
            "the forward must run the same ops each time, so that memory and latency can be predicted",
            f"op {at}: {traced[at : at + 1] or 'the end'} in the trace, {run[at : at + 1] or 'the end'} when run",
            "a forward that depends on values or on chance, or a graph that was not traced from this model",
            "trace this model on these inputs, or leave peak_bytes, latency and on= out of the budget",
        )
    )
