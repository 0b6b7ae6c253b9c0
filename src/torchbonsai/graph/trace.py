"""`trace`: one forward pass in eval mode and one in train mode per example, under the labelling tracer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from torchbonsai.core.errors import TraceError, message
from torchbonsai.graph.build import build
from torchbonsai.graph.call import flat_tensors
from torchbonsai.graph.channel_graph import ChannelGraph, Ints
from torchbonsai.graph.evidence import Evidence
from torchbonsai.graph.forward import Example, alias_copy, as_examples, doubled, undisturbed, unwrap
from torchbonsai.graph.labels import Event, Field, LabelSpace, Shadow
from torchbonsai.graph.record import Log
from torchbonsai.graph.tracer import Tracer


def observe(model: nn.Module, example_inputs: Any, hollow: bool = True) -> ChannelGraph:
    """The channel graph as the passes show it; nothing has been proved against widths baked into Python.

    hollow: activations have sizes, but no values, as long as the forward does not look at them. What such passes show
    holds once a real pass agreed with it; `Settler` sees to that.
    """
    if hollow:
        try:
            return _observe(model, example_inputs, True)
        except Exception:  # noqa: BLE001 - the passes below run for real, and say what is wrong
            pass
    return _observe(model, example_inputs, False)


def _observe(model: nn.Module, example_inputs: Any, hollow: bool) -> ChannelGraph:
    examples = as_examples(example_inputs)
    copy = alias_copy(unwrap(model))
    space = LabelSpace()
    labels, aliases = label_tensors(copy, space)
    parameters = frozenset(n for n, _ in copy.named_parameters(remove_duplicate=False))
    tracer_state: dict[str, Any] = {"roles": {}, "order": {}}
    logs: list[Log] = []
    notes: list[str] = []
    with undisturbed(model):
        for training in (False, True):
            copy.train(training)
            for number, example in enumerate(examples):
                tracer = Tracer(space, Log(training, example=number, hollow=hollow), module_names(copy), parameters)
                tracer.roles, tracer.order = tracer_state["roles"], tracer_state["order"]
                tracer.offset = sum(len(log.records) for log in logs)
                note = run_traced(copy, example, tracer)
                if note is None:
                    logs.append(tracer.log)
                else:
                    notes.append(note)
    evidence = Evidence(
        space=space,
        labels=labels,
        shapes={n: tuple(t.shape) for n, t in named_tensors(copy)},
        parameters=parameters,
        aliases=aliases,
        logs=tuple(logs),
        roles={k: frozenset(v) for k, v in tracer_state["roles"].items()},
        order=tracer_state["order"],
        solution=space.solve(),
        notes=tuple(notes),
    )
    return build(evidence)


def named_tensors(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Every parameter and buffer under every name that it has, then tensors that are plain attributes of modules."""
    named: list[tuple[str, torch.Tensor]] = list(model.named_parameters(remove_duplicate=False))
    named += model.named_buffers(remove_duplicate=False)
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        named += [(prefix + k, v) for k, v in vars(module).items() if isinstance(v, torch.Tensor)]
    return named


def module_names(model: nn.Module) -> dict[int, str]:
    """id(module) -> its first path."""
    names: dict[int, str] = {}
    for path, module in model.named_modules():
        names.setdefault(id(module), path)
    return names


def label_tensors(model: nn.Module, space: LabelSpace) -> tuple[dict[str, dict[int, Ints]], dict[str, str]]:
    """Fresh labels on every axis of every parameter and buffer; tied names share one set."""
    labels: dict[str, dict[int, Ints]] = {}
    aliases: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, tensor in named_tensors(model):
        known = first.setdefault(id(tensor), name)
        if known != name:
            aliases[name] = known
            continue
        labels[name] = {a: space.fresh(n, (name, a)) for a, n in enumerate(tensor.shape) if n > 1}
        shadow_tensor(tensor, name, labels[name])
    return labels, aliases


def shadow_tensor(tensor: torch.Tensor, name: str, labels: dict[int, Ints]) -> None:
    """The parameter or buffer carries its own labels."""
    fields = tuple(Field((a,), ls) for a, ls in labels.items())
    tensor._bonsai = Shadow(fields, False, name)  # type: ignore[attr-defined]


def run_traced(model: nn.Module, example: Example, tracer: Tracer) -> str | None:
    """Run one forward under `tracer` and freeze what it returns; a note if train mode is not for this example."""
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
                return run_traced(model, doubled(example), tracer)
            return f"the forward in train mode does not run on this example, and was not seen ({error})"
        raise TraceError(
            message(
                f"The model must run on example_inputs in {mode} mode.",
                f"{type(error).__name__}: {error}",
                "example_inputs have another shape, dtype or device than the model expects",
                "call model(example_inputs) by hand first",
            )
        ) from error
    for tensor in flat_tensors(out):
        for f in getattr(tensor, "_bonsai", Shadow()).fields:
            tracer.space.frozen.append(Event(f.labels, "it is an output of the model", None))
    return None


def forward(model: nn.Module, example: Example, mode: Any) -> Any:
    """model(*args, **kwargs) under a dispatch mode, on tensors of its own that depend on the input."""

    def own(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            mine = value.detach().clone()
            mine._bonsai = Shadow((), True)  # type: ignore[attr-defined]
            return mine
        if isinstance(value, list | tuple):
            return type(value)(own(v) for v in value)
        return {k: own(v) for k, v in value.items()} if isinstance(value, dict) else value

    args, kwargs = own(list(example[0])), own(example[1])
    with mode:
        return model(*args, **kwargs)
