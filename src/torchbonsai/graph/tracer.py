"""The dispatch mode that shadows every tensor of a forward pass with channel labels."""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from torchbonsai.core.errors import TraceError, message
from torchbonsai.graph import hollow
from torchbonsai.graph.call import UNKNOWN, Call, flat_tensors
from torchbonsai.graph.channel_graph import Blocks, Ints, Source
from torchbonsai.graph.labels import Event, LabelSpace, Shadow
from torchbonsai.graph.memory import Answer, Memory, key_of, remember
from torchbonsai.graph.record import Log, OpRecord
from torchbonsai.graph.rules import load, registry

load()
_TORCH = str(Path(torch.__file__).parent) + os.sep
_HERE = str(Path(__file__).parent) + os.sep
_RUNNER = _HERE + "trace.py"
_ALWAYS = frozenset({"contraction", "creation", "recurrent", "user", "aten.expand.default"})
_BY_EFFECT = frozenset({"layout", "contraction", "per_channel", "normalising"})
_CONSTANT_SIZE = 64


class Tracer(TorchDispatchMode):
    """Runs rules on every ATen op, writes an `OpRecord` each into `log`, labels and equalities into `space`.

    roles: (parameter, axis) -> the set of roles it was seen in. order: parameter -> number of the op that read it
    first. names: id(module) -> its path. blocks: module path -> what leaves where channels lie in blocks.
    """

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
        self.memory: dict[int, str] = {}
        self.before: tuple[tuple[int, ...], tuple[int, ...]] | None = None
        self.answered: Memory = {}

    # ------------------------------------------------------------------ what rules may ask for
    def unify(self, a: Ints, b: Ints) -> None:
        self.space.unify(a, b)

    def freeze(self, labels: Ints, reason: str) -> None:
        if labels.any():
            self.space.frozen.append(Event(labels, reason, self.source()))

    def mark_inexact(self, labels: Ints, reason: str) -> None:
        if labels.any():
            self.space.inexact.append(Event(labels, reason, self.source()))

    def fresh(self, n: int, record: OpRecord) -> Ints:
        labels = self.space.fresh(n)
        record.fresh.append(labels)
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

    def expected(self) -> Any:
        """What of another pass a rule's answer may depend on."""
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
        tensors = flat_tensors(args)
        if kwargs:
            tensors += flat_tensors(kwargs)
        shadows = tuple([getattr(t, "_bonsai", UNKNOWN) for t in tensors])
        known = registry.known(func)
        if known.mutable:
            self._refuse_writes(func, args, kwargs)
            self.before = (tensors[0].shape, tensors[0].stride()) if tensors else None
        record = OpRecord(known.name, known.kind, shadows)
        dynamic = labelled = False
        foreign: list[torch.Tensor] = []  # made out of sight, of a width perhaps
        for t, s in zip(tensors, shadows, strict=True):
            dynamic, labelled = dynamic or s.dynamic, labelled or bool(s.fields)
            if s is UNKNOWN and not hasattr(t, "_bonsai"):
                foreign.append(t)
            for labels in s.places:
                self.current = known.name
                self.freeze(labels, f"{known.name} uses positions of channels as values")
        ruled = known.rule is not None and (labelled or known.kind in _ALWAYS or known.name in _ALWAYS)
        key = key_of(func, known.kind, args, kwargs, tensors, shadows, self.expected()) if ruled else None
        out = hollow.answer(func, args, kwargs) if self.log.hollow and dynamic else None
        if out is None:
            out = func(*args, **kwargs)
        self.current = known.name
        call = Call(self, func, known.name, args, kwargs, out, tensors, record)
        outs = call.outputs
        if key is not None and (answer := self.answered.get(key)) is not None:
            self._give_again(record, answer)
        else:
            self._ask(known, call, ruled)
            record.outputs = tuple([call.set_outputs.get(id(t), ()) for t in outs])
            if call.moves:
                record.moves = tuple([tuple(call.moves.get(id(t), ())) for t in outs])
            if key is not None and not call.places:
                remember(self.answered, key, record)
        self._note_outputs(call, outs, dynamic, known.mutable)
        record.scalars = _scalars(known.kind, args, kwargs)
        if known.kind != "creation" and (not tensors or known.kind == "constant") and not known.arbitrary:
            record.values = _values(outs)
        elif foreign:
            record.values = _values(foreign)
        self.finish(record)
        return out

    def _ask(self, known: registry.Known, call: Call, ruled: bool) -> None:
        """Let the rule speak. Freezing is sound, whatever a rule stumbled over."""
        if known.rule is None:
            call.deny()
        elif ruled:
            try:
                known.rule(call)
            except Exception as error:  # noqa: BLE001 - see above
                self.rule_failed(call, error)

    def _give_again(self, record: OpRecord, answer: Answer) -> None:
        record.outputs, record.moves, record.variant = answer.outputs, answer.moves, answer.variant
        record.consumed, record.products, record.answer = answer.consumed, answer.products, answer
        record.blocks, record.module, record.scale = answer.blocks

    def _note_outputs(self, call: Call, outs: list[torch.Tensor], dynamic: bool, mutable: bool) -> None:
        record, index = call.record, len(self.log.records)
        shadows = record.inputs
        leaf = shadows[0].leaf if len(shadows) == 1 and record.kind == "layout" else None
        origins = _origins(record.kind, index, shadows)
        for t, mine in zip(outs, record.outputs, strict=True):
            t._bonsai = Shadow(mine, dynamic, leaf, origins, call.places.get(id(t), ()))  # type: ignore[attr-defined]
            if mutable and dynamic and t._is_view() and t._base is not None:
                below = getattr(t._base, "_bonsai", UNKNOWN)
                t._base._bonsai = below._replace(dynamic=True, leaf=None)  # type: ignore[attr-defined]
        record.shapes = tuple([tuple(t.shape) for t in outs])
        for s in shadows:
            if s.leaf is not None and s.leaf not in self.order:
                self.order[s.leaf] = self.offset + index

    def rule_failed(self, call: Call, error: Exception) -> None:
        """Freeze what the op touches."""
        call.set_outputs.clear()
        call.moves.clear()
        call.record.consumed.clear()
        call.record.denied = True
        call.deny(f"the rule of {call.name} failed ({type(error).__name__}: {error})")

    def finish(self, record: OpRecord) -> None:
        """The op is done; a proving tracer compares it here."""
        self.log.records.append(record)

    def _refuse_writes(self, func: Any, args: Any, kwargs: Any) -> None:
        for i, schema in enumerate(func._schema.arguments):
            if schema.alias_info is None or not schema.alias_info.is_write:
                continue
            value = args[i] if i < len(args) else kwargs.get(schema.name)
            if not isinstance(value, torch.Tensor):
                continue
            leaf = getattr(value, "_bonsai", UNKNOWN).leaf or self._behind(value)
            if leaf in self.parameters:
                raise TraceError(
                    message(
                        "A forward pass must not write into a parameter.",
                        f"{func} writes into {leaf!r}: {self.source(str(func))}",
                        "a weight that is normalised or masked in place",
                        "compute a new tensor from the parameter, or keep the changing values in a buffer",
                    )
                )

    def _behind(self, value: torch.Tensor) -> str | None:
        """The parameter whose memory a tensor lies in, though the tensor is unknown (`weight.data`)."""
        return self.memory.get(value.untyped_storage().data_ptr()) if value.device.type != "meta" else None

    # ------------------------------------------------------------------ where
    def module_of(self, leaf: str | None) -> str:
        """The module that owns a parameter, else the one whose forward is running."""
        return leaf.rpartition(".")[0] if leaf is not None else self.source().module

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
        inside = filename.startswith(_TORCH)
        if module is None and "self" in frame.f_code.co_varnames:
            owner = frame.f_locals.get("self")
            if isinstance(owner, nn.Module) and id(owner) in names:
                module = names[id(owner)]
                fallback = fallback or frame
        if user is None and not inside and not filename.startswith(_HERE):
            user = frame
        frame = frame.f_back
    at = user or fallback
    if at is None:
        return Source(op, module or "", "", 0)
    file, line = at.f_code.co_filename, at.f_lineno
    return Source(op, module or "", file, line, linecache.getline(file, line).strip())


def _origins(kind: str, index: int, shadows: tuple[Shadow, ...]) -> tuple[int, ...]:
    if kind != "layout":
        return (index,)
    return shadows[0].origins if len(shadows) == 1 else tuple(dict.fromkeys(o for s in shadows for o in s.origins))


def _scalars(kind: str, args: Any, kwargs: Any) -> tuple[Any, ...]:
    """The arguments that decide values. Sizes and positions are judged by their effect instead."""
    if kind == "creation":  # the value of a fill; its size is a list
        return tuple([a for a in (*args, *kwargs.values()) if isinstance(a, int | float)])
    if kind in _BY_EFFECT:
        return tuple([a for a in (*args, *kwargs.values()) if type(a) is float])
    flat: list[Any] = []
    _flatten([*args, *kwargs.values()], flat)
    return tuple(flat)


def _flatten(values: Any, into: list[Any]) -> None:
    for value in values:
        kind = type(value)
        if kind in _PLAIN:
            into.append(value)
        elif kind is list or kind is tuple:
            _flatten(value, into)


_PLAIN = frozenset({bool, int, float, str, type(None)})


def _values(outs: list[torch.Tensor]) -> Any:
    """The values of a small constant, so that a width used as a value shows."""
    return [t.tolist() for t in outs if t.numel() <= _CONSTANT_SIZE and t.device.type != "meta"]
