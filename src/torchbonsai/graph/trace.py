"""`trace`: one forward pass in eval mode and one in train mode per example, under the labelling tracer."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from torchbonsai.core.errors import TraceError, message
from torchbonsai.graph.blocks import Asked, collapsed
from torchbonsai.graph.build import build
from torchbonsai.graph.call import map_tensors
from torchbonsai.graph.channel_graph import ChannelGraph, Ints
from torchbonsai.graph.evidence import Evidence
from torchbonsai.graph.forward import (
    Example,
    alias_copy,
    as_examples,
    cropped,
    doubled,
    draw_alike,
    set_mode,
    undisturbed,
    unwrap,
    walk,
)
from torchbonsai.graph.labels import INPUT, UNKNOWN, Event, Field, LabelSpace, Shadow
from torchbonsai.graph.memory import Memory
from torchbonsai.graph.outputs import Narrow, check, held, note_returned, tie_blocks
from torchbonsai.graph.record import Log
from torchbonsai.graph.tracer import Tracer

_HEAVY_MACS = 2_000_000
"""An op: above so many on average, running on a crop saves more than one more pass costs."""
_CROPS = (64, 128)


def observe(model: nn.Module, example_inputs: Any, hollow: bool = True, asked: Asked | None = None) -> ChannelGraph:
    """The channel graph as the passes show it; nothing has been proved against widths baked into Python.

    hollow: activations have sizes, but no values, as long as the forward does not look at them. What such passes show
    holds once a real pass agreed with it; `Settler` sees to that. asked: what the user said of outputs and blocks.
    """
    asked = asked or Asked()
    graph = _observe_once(model, example_inputs, hollow, asked)
    other = collapsed(graph.evidence)
    if not other:
        return graph
    again = _observe_once(model, example_inputs, hollow, replace(asked, blocks={**asked.blocks, **other}))
    return max(graph, again, key=lambda g: g.n_atoms)


def _observe_once(model: nn.Module, example_inputs: Any, hollow: bool, asked: Asked) -> ChannelGraph:
    if hollow:
        try:
            return _observe(model, example_inputs, True, asked)
        except Exception:  # noqa: BLE001 - the passes below run for real, and say what is wrong
            pass
    return _observe(model, example_inputs, False, asked)


def _observe(model: nn.Module, example_inputs: Any, hollow: bool, asked: Asked) -> ChannelGraph:
    examples = as_examples(example_inputs)
    copy = alias_copy(unwrap(model))
    named = named_tensors(copy)
    passes = _Passes(copy, named, hollow, asked)
    with undisturbed(model):
        set_mode(copy, False)
        full = [passes.run(example, Log(False, number)) for number, example in enumerate(examples)]
        proofs = passes.smaller(examples[0], full[0]) if len(examples) == 1 else full
        set_mode(copy, True)
        crop = proofs[0].crop
        trained = [passes.trained(example, number, crop) for number, example in enumerate(examples)]
    passes.keep_unread()
    seen = [log for log in trained if log.note is None]
    evidence = Evidence(
        space=passes.space,
        labels=passes.labels,
        shadows=passes.shadows,
        shapes={n: tuple(t.shape) for n, t in named},
        parameters=passes.parameters,
        aliases=passes.aliases,
        logs=(*full, *(log for log in proofs if log not in full), *seen),
        proofs=(*proofs, *seen),
        roles={k: frozenset(v) for k, v in passes.roles.items()},
        order=passes.order,
        solution=passes.space.solve(),
        notes=tuple(log.note for log in trained if log.note is not None),
        blocks=asked.blocks,
    )
    return build(evidence)


class _Passes:
    """Traced forwards of one copy over one label space."""

    def __init__(self, copy: nn.Module, named: list[tuple[str, torch.Tensor]], hollow: bool, asked: Asked) -> None:
        self.copy, self.hollow, self.asked, self.space = copy, hollow, asked, LabelSpace()
        self.shadows, self.aliases = label_tensors(named, self.space)
        self.labels = {n: {a: labels for (a,), labels in s.fields} for n, s in self.shadows.items()}
        self.modules = module_names(copy)
        parameters = [(n, p) for n, p in named if isinstance(p, nn.Parameter)]
        self.parameters = frozenset(n for n, _ in parameters)
        self.storages = {p.untyped_storage().data_ptr(): n for n, p in reversed(parameters) if p.numel()}
        self.roles: dict[tuple[str, int], set[str]] = {}
        self.order: dict[str, int] = {}
        self.memory = Memory()
        self.offset = 0

    def run(self, example: Example, log: Log) -> Log:
        """One forward, written into `log`."""
        log.hollow = self.hollow
        tracer = Tracer(self.space, log, self.modules, self.parameters, self.asked.blocks)
        tracer.roles, tracer.order, tracer.offset = self.roles, self.order, self.offset
        tracer.storages, tracer.memory = self.storages, self.memory
        log.note = run_traced(self.copy, example, tracer, self.asked.outputs)
        self.offset += len(log.records)
        self.memory.recalls = True
        return log

    def trained(self, example: Example, number: int, crop: int | None) -> Log:
        """A forward in train mode, of the crop where it runs on so little; one that broke off is no evidence."""
        mark, order = self._mark(), dict(self.order)
        try:
            log = self.run(cropped(example, crop), Log(True, number, crop=crop))
        except Exception:
            if crop is None:
                raise
            log = Log(True, number, note="it did not run on the crop")
        if log.note is not None:
            self._forget(mark)
            self.order.clear()
            self.order.update(order)
        return log if log.note is None or crop is None else self.trained(example, number, None)

    def keep_unread(self) -> None:
        """What no pass has read stays whole: nothing is known of what reads it."""
        for name, axes in self.labels.items():
            if name not in self.order:
                self.space.frozen += [Event(labels, "no pass reached it", None) for labels in axes.values()]

    def smaller(self, example: Example, full: Log) -> list[Log]:
        """The pass to prove against: of a crop of the picture where that is cheaper and takes the same way."""
        macs = sum(c * math.prod(e.size for e in extents) for r in full.records for c, extents, _ in r.products)
        if macs < _HEAVY_MACS * len(full.records):
            return [full]
        for crop in _CROPS:
            small = cropped(example, crop)
            if small is example:
                break
            mark = self._mark()
            try:
                log = self.run(small, Log(False, crop=crop))
            except TraceError:
                self._forget(mark)  # what a forward that broke off equated or froze is no evidence
                continue
            if [r.name for r in log.records] == [r.name for r in full.records]:
                return [log]
            self._forget(mark)
        return [full]

    def _mark(self) -> tuple[tuple[int, int, int], int]:
        return self.space.mark(), len(self.memory)

    def _forget(self, mark: tuple[tuple[int, int, int], int]) -> None:
        """All that passes showed since `mark`."""
        self.space.reset(mark[0])
        self.memory.forget(mark[1])


def named_tensors(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Every parameter and buffer under every name that it has, then tensors that are plain attributes of modules."""
    parameters: list[tuple[str, torch.Tensor]] = []
    buffers: list[tuple[str, torch.Tensor]] = []
    attributes: list[tuple[str, torch.Tensor]] = []
    for path, module in walk(model):
        prefix = f"{path}." if path else ""
        parameters += [(prefix + k, p) for k, p in module._parameters.items() if p is not None]
        buffers += [(prefix + k, b) for k, b in module._buffers.items() if b is not None]
        attributes += [(prefix + k, v) for k, v in vars(module).items() if isinstance(v, torch.Tensor)]
    return [*parameters, *buffers, *attributes]


def module_names(model: nn.Module) -> dict[int, str]:
    """id(module) -> its first path."""
    names: dict[int, str] = {}
    for path, module in walk(model):
        names.setdefault(id(module), path)
    return names


def label_tensors(named: list[tuple[str, torch.Tensor]], space: LabelSpace) -> tuple[dict[str, Shadow], dict[str, str]]:
    """Fresh labels on every axis of every parameter and buffer; tied names share one set."""
    shadows: dict[str, Shadow] = {}
    aliases: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, tensor in named:
        known = first.setdefault(id(tensor), name)
        if known != name:
            aliases[name] = known
            continue
        labels = {a: space.fresh(n, (name, a)) for a, n in enumerate(tensor.shape) if n > 1}
        shadows[name] = shadow_tensor(tensor, name, labels)
    return shadows, aliases


def shadow_tensor(tensor: torch.Tensor, name: str, labels: dict[int, Ints]) -> Shadow:
    """The parameter or buffer carries its own labels."""
    shadow = tensor._bonsai = Shadow(tuple(Field((a,), ls) for a, ls in labels.items()), False, name)  # type: ignore[attr-defined]
    return shadow


def run_traced(model: nn.Module, example: Example, tracer: Tracer, narrow: Narrow = False) -> str | None:
    """Run one forward under `tracer` and freeze what it returns, but for the outputs that `narrow` names.

    Returns a note if train mode is not for this example.
    """
    mode = "train" if tracer.log.training else "eval"
    try:
        out = forward(model, example, tracer)
    except TraceError:
        raise
    except Exception as error:
        if tracer.log.training:
            if tracer.log.hollow and "more than 1 value per channel" not in str(error):
                raise
            if "more than 1 value per channel" in str(error) and not tracer.log.doubled:
                tracer.log.records.clear()
                tracer.log.doubled = True
                return run_traced(model, doubled(example), tracer, narrow)
            return f"the forward in train mode does not run on this example, and was not seen ({error})"
        raise TraceError(
            message(
                f"The model must run on example_inputs in {mode} mode.",
                f"{type(error).__name__}: {error}",
                "example_inputs have another shape, dtype or device than the model expects",
                "call model(example_inputs) by hand first",
            )
        ) from error
    returned = note_returned(tracer.log, out)
    if not returned and not tracer.log.training:
        raise _returns_nothing(out)
    if not tracer.log.training:
        check(out, narrow)
    whole = held(out, narrow)
    for tensor in whole:
        for f in getattr(tensor, "_bonsai", UNKNOWN).fields:
            tracer.space.frozen.append(Event(f.labels, "it is an output of the model", None))
    for f in (f for t in returned if not any(t is w for w in whole) for f in getattr(t, "_bonsai", UNKNOWN).fields):
        tie_blocks(tracer.space, f.labels)
    for tensor in returned:
        for labels in getattr(tensor, "_bonsai", UNKNOWN).places:
            tracer.space.frozen.append(Event(labels, "an output of the model is positions of channels", None))
    return None


def _returns_nothing(out: Any) -> TraceError:
    return TraceError(
        message(
            "The forward must return at least one tensor, or nothing tells what has to stay.",
            f"{type(out).__name__} without a tensor in it",
            "outputs that are kept in an attribute, or turned into Python numbers or arrays",
            "wrap the model in a module whose forward returns them as tensors",
        )
    )


def forward(model: nn.Module, example: Example, mode: Any) -> Any:
    """model(*args, **kwargs) under a dispatch mode, on tensors of its own that depend on the input."""

    def own(tensor: torch.Tensor) -> torch.Tensor:
        mine = tensor.detach().clone()
        mine._bonsai = INPUT  # type: ignore[attr-defined]
        return mine

    args, kwargs = map_tensors(own, example)
    draw_alike()
    with mode:
        return model(*args, **kwargs)
