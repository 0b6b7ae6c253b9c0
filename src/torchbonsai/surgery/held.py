"""Passes that look at, or change, what contractions read: the reference of a plan that folds, and its measurements.

A contraction is known by the memory of its weight, not by the number of its op, so a pass may be of any size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from torchbonsai.graph.trace import named_tensors
from torchbonsai.surgery.contraction import Contraction, contraction
from torchbonsai.surgery.fold import Fold


class AtContractions(TorchDispatchMode):
    """Every contraction that reads the weight of a fold passes through `meet`."""

    def __init__(self, model: nn.Module, folds: Iterable[Fold]) -> None:
        super().__init__()
        tensors = dict(named_tensors(model))
        self.folds: dict[int, list[Fold]] = defaultdict(list)
        for fold in folds:
            self.folds[tensors[fold.weight].data_ptr()].append(fold)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = contraction(str(func), args)
        folds = self.folds.get(found.weight.data_ptr()) if found is not None else None
        if found is not None and folds is not None:
            args = self.meet(found, folds, list(args))
        return func(*args, **(kwargs or {}))

    def meet(self, found: Contraction, folds: list[Fold], args: list[Any]) -> list[Any]:
        """The arguments to go on with."""
        raise NotImplementedError


class Held(AtContractions):
    """The removed inputs of every fold are its constants. border: where the contraction pads with zeros, too.

    With it, the large network is what a plan that folds makes small, exactly.
    """

    def __init__(self, model: nn.Module, folds: Iterable[Fold], border: bool) -> None:
        super().__init__(model, folds)
        self.border = border

    def meet(self, found: Contraction, folds: list[Fold], args: list[Any]) -> list[Any]:
        x = found.input
        if self.border and found.padding:
            spatial = x.dim() - 2
            ends = [p for p in reversed((*found.padding, *found.padding[-1:] * spatial)[:spatial]) for _ in range(2)]
            x = nn.functional.pad(x, ends)
            args[4] = [0] * len(found.padding)
        axis = found.axis % x.dim()
        shape = [-1 if a == axis else 1 for a in range(x.dim())]
        for fold in folds:
            places = fold.positions.to(x.device)
            values = fold.values.to(x.device, x.dtype).reshape(shape)
            x = x.index_copy(
                axis, places, values.expand([len(places) if a == axis else n for a, n in enumerate(x.shape)])
            )
        args[found.place] = x
        return args


@dataclass(eq=False)
class Seen:
    """Of the removed inputs of one contraction: how many values each had, their sum, least and greatest; (n,) float64.

    rounding: of the numbers, relative. proved: (n,) bool, no value can depend on the model's input; None where nobody
    asked.
    """

    count: int
    total: Tensor
    low: Tensor
    high: Tensor
    rounding: float
    proved: Tensor | None

    def join(self, other: Seen) -> None:
        """Both are of the same inputs."""
        self.count, self.total = self.count + other.count, self.total + other.total
        self.low, self.high = torch.minimum(self.low, other.low), torch.maximum(self.high, other.high)
        if self.proved is not None and other.proved is not None:
            self.proved = self.proved & other.proved


class Watch(AtContractions):
    """Measures what every fold is to replace. depends: of a tensor, which of its elements depend on the input."""

    def __init__(
        self, model: nn.Module, folds: Iterable[Fold], depends: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__(model, folds)
        self.depends = depends
        self.seen: dict[str, Seen] = {}

    def meet(self, found: Contraction, folds: list[Fold], args: list[Any]) -> list[Any]:
        for fold in folds:
            seen = self._read(found, fold)
            if fold.weight in self.seen:
                self.seen[fold.weight].join(seen)
            else:
                self.seen[fold.weight] = seen
        return args

    def _read(self, found: Contraction, fold: Fold) -> Seen:
        rounding = torch.finfo(found.input.dtype).eps
        rows = _rows(found, fold, found.input).double()
        proved = None if self.depends is None else ~_rows(found, fold, self.depends(found.input)).any(1).cpu()
        low, high = (bound(1).values.cpu() for bound in (rows.min, rows.max))
        return Seen(rows.shape[1], rows.sum(1).cpu(), low, high, rounding, proved)


def _rows(found: Contraction, fold: Fold, x: Tensor) -> Tensor:
    """(removed inputs, their values in the pass)."""
    places = fold.positions.to(x.device)
    return x.index_select(found.axis, places).movedim(found.axis, 0).flatten(1)


class Tries(AtContractions):
    """Which folds' contractions read the biases that were put beside their weights? by name of the bias."""

    def __init__(self, model: nn.Module, folds: Iterable[Fold], biases: Mapping[str, Tensor]) -> None:
        super().__init__(model, folds)
        self.biases = biases
        self.used: set[str] = set()

    def meet(self, found: Contraction, folds: list[Fold], args: list[Any]) -> list[Any]:
        self.used |= {f.name for f in folds if found.bias is self.biases[f.name]}
        return args
