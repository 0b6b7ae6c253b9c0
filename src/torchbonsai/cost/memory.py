"""Peak activation memory and model bytes as functions of the kept atoms; and measured, where the device can tell.

The peak is of what an eval forward allocates for the outputs of its ops, on the example inputs as given: each
output's bytes from the op that makes it until the framework gives it back. Weights and inputs are the caller's and do
not count; scratch memory inside an op, and what an allocator rounds up, is no property of the network.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import nn
from torch.profiler import ProfilerActivity, profile

from torchbonsai.cost.evaluate import call, device_of, eval_mode
from torchbonsai.cost.extents import Terms
from torchbonsai.cost.tape import Labelled, Tape, record
from torchbonsai.graph.channel_graph import Bools, ChannelGraph, Ints
from torchbonsai.graph.trace import named_tensors


class PeakModel:
    """`ChannelGraph` and a `Tape` of the same network -> the peak of any selection, in bytes."""

    def __init__(self, graph: ChannelGraph, tape: Tape) -> None:
        """Raises TraceError where the tape is of other ops than the trace saw."""
        labelled = Labelled(graph, tape)
        self._terms = Terms(graph.n_atoms)
        for block in tape.blocks:
            fields = labelled.records[block.born].outputs[block.output]
            extents = labelled.extents(fields)
            self._terms.add(block.bytes // max(prod(e.size for e in extents), 1), extents)
        self._alive = _alive(tape)
        self.dense = self.of(np.ones(graph.n_atoms, dtype=bool))

    def of(self, kept: Bools) -> int:
        """The peak in bytes when exactly the atoms with `kept[atom]` stay. kept: (n_atoms,) bool."""
        sizes = np.array(self._terms.of(kept), dtype=np.int64)
        return int((self._alive @ sizes).max()) if sizes.size else 0


class BytesModel:
    """`ChannelGraph` and its model -> bytes of the parameters and buffers of any selection, tied ones once."""

    def __init__(self, graph: ChannelGraph, model: nn.Module) -> None:
        self._terms = Terms(graph.n_atoms)
        kinds = {n for n, _ in (*model.named_parameters(), *model.named_buffers())}
        for name, tensor in named_tensors(model):
            if name not in kinds or graph.aliases.get(name, name) != name:
                continue
            axes = graph.axes.get(name, {})
            whole = prod(n for axis, n in enumerate(tensor.shape) if axis not in axes)
            self._terms.add(whole * tensor.element_size(), [axes[axis] for axis in sorted(axes)])
        self.dense = self.of(np.ones(graph.n_atoms, dtype=bool))

    def of(self, kept: Bools) -> int:
        """Bytes when exactly the atoms with `kept[atom]` stay. kept: (n_atoms,) bool."""
        return sum(self._terms.of(kept))


def model_bytes(model: nn.Module) -> int:
    """Bytes of the parameters and buffers, tied ones once."""
    held: dict[int, torch.Tensor] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return sum(t.numel() * t.element_size() for t in held.values())


def peak_bytes(model: nn.Module, example_inputs: Any) -> int:
    """The peak of `model` as it is; no trace is needed, so any forward that runs will do."""
    tape = record(model, example_inputs)
    return int((_alive(tape) @ np.array([b.bytes for b in tape.blocks], dtype=np.int64)).max(initial=0))


def measure_peak(model: nn.Module, example_inputs: Any) -> int | None:
    """The most that one eval forward had allocated at a time beyond weights and inputs, in bytes, as the device says.

    On a CPU by PyTorch's profiler, on CUDA by the allocator's own statistics; None on other devices. Scratch memory
    inside ops is in it.
    """
    device = device_of(model)
    with eval_mode(model), torch.no_grad():
        call(model, example_inputs)  # what is allocated once, at the first call, does not count
        if device.type == "cuda":
            return _peak_on_cuda(model, example_inputs, device)
        return _peak_on_cpu(model, example_inputs) if device.type == "cpu" else None


def _peak_on_cuda(model: nn.Module, example_inputs: Any, device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call(model, example_inputs)
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _peak_on_cpu(model: nn.Module, example_inputs: Any) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        returned = call(model, example_inputs)
    del returned
    assert profiled.profiler is not None
    results = profiled.profiler.kineto_results
    moves = [(e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]"]
    running = np.cumsum([size for _, size in sorted(moves, key=lambda move: move[0])])
    return max(int(running.max()), 0) if running.size else 0


def _alive(tape: Tape) -> csr_matrix:
    """(ops x blocks) whether the op runs while the block is held; an op's own outputs are."""
    rows: list[Ints] = [np.arange(b.born, max(b.dies, b.born + 1)) for b in tape.blocks]
    columns = np.repeat(np.arange(len(rows)), [r.size for r in rows])
    flat = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
    ones = np.ones(flat.size, dtype=np.int64)
    return csr_matrix((ones, (flat, columns)), shape=(max(len(tape.ops), 1), len(tape.blocks)))
