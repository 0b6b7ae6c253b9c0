"""The dispatch mode that shadows every tensor of a forward pass with channel labels."""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from torchbonsai.core.errors import TraceError, message
from torchbonsai.graph import hollow
from torchbonsai.graph.call import Call, flat_tensors, read
from torchbonsai.graph.channel_graph import Blocks, Ints, Source
from torchbonsai.graph.labels import UNKNOWN, Event, LabelSpace, Shadow
from torchbonsai.graph.memory import Memory, repeated
from torchbonsai.graph.record import Log, OpRecord
from torchbonsai.graph.rules import load, registry

load()
_TORCH = str(Path(torch.__file__).parent) + os.sep
_HERE = str(Path(__file__).parent) + os.sep
_RUNNER = _HERE + "trace.py"
_ALWAYS = frozenset({"contraction", "creation", "recurrent", "user", "aten.expand.default"})
_CONSTANT_SIZE = 64


class Tracer(TorchDispatchMode):
    """Runs rules on every ATen op, writes an `OpRecord` each into `log`, labels and equalities into `space`.

    roles: (parameter, axis) -> the set of roles it was seen in. order: parameter -> number of the op that read it
    first. names: id(module) -> its path. blocks: module path -> what leaves where channels lie in blocks. remembers:
    are answers kept for other passes?
    """

    remembers = True

    def __init__(
        self,
        space: LabelSpace,
        log: Log,
        names: Mapping[int, str],
        parameters: frozenset[str],
        blocks: Blocks | None = None,
    ) -> None:
        super().__init__()
        self.space, self.log, self.names, self.parameters = space, log, names, parameters
        self.blocks = blocks or {}
        self.roles: dict[tuple[str, int], set[str]] = {}
        self.order: dict[str, int] = {}
        self.offset = 0
        self.current = ""
        self.storages: dict[int, str] = {}
        self.before: tuple[tuple[int, ...], tuple[int, ...]] | None = None
        self.memory = Memory()
        self._found: tuple[int, str, Source] | None = None

    # ------------------------------------------------------------------ what rules may ask for
    def unify(self, a: Ints, b: Ints) -> None:
        self.space.unify(a, b)

    def freeze(self, labels: Ints, reason: str) -> None:
        if labels.any():
            self.space.frozen.append(Event(labels, reason, self._here()))

    def mark_inexact(self, labels: Ints, reason: str) -> None:
        if labels.any():
            self.space.inexact.append(Event(labels, reason, self._here()))

    def fresh(self, n: int, record: OpRecord) -> Ints:
        labels = self.space.fresh(n)
        record.fresh += (labels,)
        return labels

    def role(self, owner: tuple[str, int], role: str) -> None:
        self.roles.setdefault(owner, set()).add(role)

    def choose_blocks(self, record: OpRecord, inside: int, whole: int) -> str:
        """ "whole" or "inside", as the user said of the module that is running, else what leaves more atoms."""
        record.module = self.source().module
        return self.blocks.get(record.module) or ("whole" if whole > inside else "inside")

    def expected_axes(self, output: int) -> tuple[tuple[int, ...], ...] | None:
        """The axes of the fields of an output of the current op, where another pass has fixed them."""
        return None

    def expected_variant(self) -> str:
        """The form that another pass took the current op for."""
        return ""

    # ------------------------------------------------------------------ the pass
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled inside a pass; PyTorch's guard against it costs as much as a rule."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        known = registry.known(func)
        tensors, shadows, arguments = read(args, kwargs)
        dynamic = labelled = foreign = False
        for s in shadows:
            dynamic, labelled, foreign = dynamic or s.dynamic, labelled or bool(s.fields), foreign or s is UNKNOWN
            if s.places:
                self._use(s, known.name)
        if known.mutable:
            self._refuse_writes(known, args, kwargs)
            self.before = (tensors[0].shape, tensors[0].stride()) if tensors else None
        key = self.memory.key(known, arguments, tensors, labelled) if self.remembers and not foreign else None
        out = self.run(func, args, kwargs, dynamic)
        outs = flat_tensors(out)
        origins = tuple([getattr(t, "_bonsai_origins", ()) for t in tensors])
        mine = _origins(known.kind, len(self.log.records), origins, _fills(known.name, args))
        record = self.memory.recall(key, bool(tensors))
        if record is not None:
            record = repeated(record, tuple([tuple(t.shape) for t in outs]), origins)
            self.log.records.append(record)
        else:
            record = OpRecord(func, known.name, known.kind, arguments, shadows, origins=origins)
            self.current = known.name
            call = Call(self, func, known.name, args, kwargs, out, tensors, record)
            self._ask(known, call, outs, dynamic, labelled)
            if known.kind != "creation" and (not tensors or known.kind == "constant") and not known.arbitrary:
                record.values = _values(outs)
            elif foreign:  # made out of sight, of a width perhaps
                record.values = _values([t for t, s in zip(tensors, shadows, strict=True) if s is UNKNOWN])
            record.made = self.finish(record)
            self.memory.keep(key, record)
        mark(outs, record.made, known.mutable and dynamic, mine)
        return out

    def _use(self, shadow: Shadow, name: str) -> None:
        self.current = name
        for labels in shadow.places:
            self.freeze(labels, f"{name} uses positions of channels as values")

    def run(self, func: Any, args: Any, kwargs: Any, dynamic: bool) -> Any:
        """The op itself, or in a hollow pass the form of its result."""
        out = hollow.answer(func, args, kwargs) if dynamic and self.log.hollow else None
        return func(*args, **kwargs) if out is None else out

    def _ask(self, known: registry.Known, call: Call, outs: list[torch.Tensor], dynamic: bool, labelled: bool) -> None:
        """Let the rule speak, and write down what it said. Freezing is sound, whatever a rule stumbled over."""
        if known.rule is None:
            call.deny()
        elif labelled or known.kind in _ALWAYS or known.name in _ALWAYS:
            try:
                known.rule(call)
            except Exception as error:  # noqa: BLE001 - see above
                self.rule_failed(call, error)
        record, index = call.record, len(self.log.records)
        if call.moves:
            record.moves = tuple([tuple(call.moves.get(id(t), ())) for t in outs])
        record.shapes = tuple([tuple(t.shape) for t in outs])
        record.made = self._shadows(call, outs, dynamic)
        record.outputs = tuple([s.fields for s in record.made])
        for s in record.inputs:
            if s.leaf is not None and s.leaf not in self.order:
                self.order[s.leaf] = self.offset + index

    def _shadows(self, call: Call, outs: list[torch.Tensor], dynamic: bool) -> tuple[Shadow, ...]:
        """What the outputs carry."""
        record = call.record
        leaf = record.inputs[0].leaf if len(record.inputs) == 1 and record.kind == "layout" else None
        made = [self.memory.shadow(call.set_outputs.get(id(t), ()), dynamic, leaf) for t in outs]
        if call.places:
            made = [replace(s, places=call.places.get(id(t), ())) for t, s in zip(outs, made, strict=True)]
        return tuple(made)

    def rule_failed(self, call: Call, error: Exception) -> None:
        """Freeze what the op touches."""
        call.set_outputs.clear()
        call.moves.clear()
        call.record.consumed = ()
        call.record.denied = True
        call.deny(f"the rule of {call.name} failed ({type(error).__name__}: {error})")

    def finish(self, record: OpRecord) -> tuple[Shadow, ...]:
        """The op is done: what its outputs carry. A proving tracer compares it here."""
        self.log.records.append(record)
        return record.made

    def _refuse_writes(self, known: registry.Known, args: Any, kwargs: Any) -> None:
        for i, name in known.written:
            value = args[i] if i < len(args) else kwargs.get(name)
            if not isinstance(value, torch.Tensor):
                continue
            leaf = getattr(value, "_bonsai", UNKNOWN).leaf or self._behind(value)
            if leaf in self.parameters:
                raise TraceError(
                    message(
                        "A forward pass must not write into a parameter.",
                        f"{known.name} writes into {leaf!r}: {self.source(known.name)}",
                        "a weight that is normalised or masked in place",
                        "compute a new tensor from the parameter, or keep the changing values in a buffer",
                    )
                )

    def _behind(self, value: torch.Tensor) -> str | None:
        """The parameter whose memory a tensor lies in, though the tensor is unknown (`weight.data`)."""
        return self.storages.get(value.untyped_storage().data_ptr()) if value.device.type != "meta" else None

    # ------------------------------------------------------------------ where
    def module_of(self, leaf: str | None) -> str:
        """The module that owns a parameter, else the one whose forward is running."""
        return leaf.rpartition(".")[0] if leaf is not None else self.source().module

    def _here(self) -> Source:
        """`source()` of the op that is running, looked up once."""
        index = len(self.log.records)
        if self._found is None or self._found[:2] != (index, self.current):
            self._found = index, self.current, self.source()
        return self._found[2]

    def source(self, op: str = "") -> Source:
        """The innermost line of the user's own code that is running, and the innermost module."""
        return find_source(self.names, op or self.current)


def find_source(names: Mapping[int, str], op: str = "", frame: Any = None) -> Source:
    """Walk the Python stack from `frame` (default: here) outwards."""
    frame = frame or sys._getframe(1)
    module: str | None = None
    user = fallback = None
    while frame is not None and (user is None or module is None):
        filename = frame.f_code.co_filename
        if filename == _RUNNER:
            break
        if filename.startswith(_HERE):
            frame = frame.f_back
            continue
        inside = filename.startswith(_TORCH)
        if module is None and "self" in frame.f_code.co_varnames:
            owner = frame.f_locals.get("self")
            if isinstance(owner, nn.Module) and id(owner) in names:
                module = names[id(owner)]
                fallback = fallback or frame
        if user is None and not inside:
            user = frame
        frame = frame.f_back
    at = user or fallback
    if at is None:
        return Source(op, module or "", "", 0)
    file, line = at.f_code.co_filename, at.f_lineno
    return Source(op, module or "", file, line, linecache.getline(file, line).strip())


def _origins(kind: str, index: int, inputs: tuple[tuple[int, ...], ...], fills: bool) -> tuple[int, ...]:
    """Of the outputs: the op itself, or, of a layout op, those of its inputs; both where it adds values of its own."""
    if kind != "layout":
        return (index,)
    if len(inputs) == 1 and not fills:
        return inputs[0]
    return tuple(dict.fromkeys([*(o for origins in inputs for o in origins), *([index] if fills else ())]))


def _fills(name: str, args: Any) -> bool:
    """Does the op pad with something else than zeros?"""
    return name.startswith("aten.constant_pad_nd") and len(args) > 2 and args[2] != 0


def mark(outs: list[torch.Tensor], made: tuple[Shadow, ...], writes: bool, origins: tuple[int, ...] = ()) -> None:
    """Tensors carry their shadows and origins; what is written into a view is in the tensor below it, too."""
    for t, shadow in zip(outs, made, strict=True):
        t._bonsai = shadow  # type: ignore[attr-defined]
        t._bonsai_origins = origins  # type: ignore[attr-defined]
        if writes and t._is_view() and t._base is not None:
            below = getattr(t._base, "_bonsai", UNKNOWN)
            t._base._bonsai = replace(below, dynamic=True, leaf=None)  # type: ignore[attr-defined]


def _values(outs: list[torch.Tensor]) -> Any:
    """The values of a small constant, so that a width used as a value shows."""
    return [t.tolist() for t in outs if t.numel() <= _CONSTANT_SIZE and t.device.type != "meta"]
