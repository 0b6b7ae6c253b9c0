"""From which line, in which module, every op of a traced pass was called: looked up once something has failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from torchbonsai.graph import hollow
from torchbonsai.graph.call import flat_tensors, read
from torchbonsai.graph.channel_graph import Source
from torchbonsai.graph.forward import alias_copy, as_examples, cropped, doubled, undisturbed
from torchbonsai.graph.labels import INPUT
from torchbonsai.graph.record import Log
from torchbonsai.graph.trace import forward, module_names
from torchbonsai.graph.tracer import find_source


class _Locator(TorchDispatchMode):
    """hollow: activations need no values, as in the pass that is looked up."""

    def __init__(self, names: Mapping[int, str], hollow: bool) -> None:
        super().__init__()
        self.names, self.hollow = names, hollow
        self.sources: list[Source] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.sources.append(find_source(self.names, str(func)))
        if not self.hollow or not any(s.dynamic for s in read(args, kwargs)[1]):
            return func(*args, **kwargs)
        out = hollow.answer(func, args, kwargs)
        out = func(*args, **kwargs) if out is None else out
        for t in flat_tensors(out):
            t._bonsai = INPUT  # type: ignore[attr-defined]
        return out


def locate(model: nn.Module, example_inputs: Any, log: Log) -> list[Source]:
    """The source of every op of `log`, in order; none where the forward now goes another way."""
    copy = alias_copy(model).train(log.training)
    example = cropped(as_examples(example_inputs)[log.example], log.crop)
    locator = _Locator(module_names(copy), log.hollow)
    with undisturbed(model):
        try:
            forward(copy, doubled(example) if log.doubled else example, locator)
        except Exception:  # noqa: BLE001 - nothing depends on it but how soon a repair is found
            return []
    same = [s.op for s in locator.sources] == [r.name for r in log.records]
    return locator.sources if same else []
