"""`fold=`: what removed channels gave their readers, always or on average, added to the readers' biases.

"constant" folds the inputs that are the same number everywhere: proved, because no value there can depend on the
model's input, or, where batches are given, because none ever changed over them. "mean" folds every removed input's mean
over the batches and positions, measured in the large network. Everything else is masked, as without folding.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from torchbonsai.core.errors import ConfigError, DataError, message
from torchbonsai.cost.evaluate import call, device_of
from torchbonsai.criteria.batches import inputs_of, read_batches
from torchbonsai.graph.channel_graph import Bools, ChannelGraph
from torchbonsai.graph.forward import alias_copy, as_examples, undisturbed, walk
from torchbonsai.graph.trace import named_tensors
from torchbonsai.selection.budget import Budget
from torchbonsai.surgery.depends import Depends
from torchbonsai.surgery.fold import Fold
from torchbonsai.surgery.held import Seen, Tries, Watch
from torchbonsai.surgery.plan import PruningPlan
from torchbonsai.surgery.readers import readers

How = Literal["constant", "mean"] | None
_MANY = {"bias": "biases", "new bias": "new biases", "running mean": "running means"}
Loss = Callable[[nn.Module, Any], Tensor] | None


def requested(
    how: How, example_inputs: Any, batches: Sequence[Any] | None, loss: Loss, budget: Budget
) -> Folding | None:
    """What `tb.prune` is asked for. Raises ConfigError for another word, DataError for means of nothing."""
    if how is None:
        return None
    if how not in ("constant", "mean"):
        raise ConfigError(
            message('fold= must be "constant", "mean" or None', repr(how), "a typing error", 'write fold="mean"')
        )
    if how == "mean" and not batches:
        raise DataError(
            message(
                'fold="mean" needs batches to take the means over',
                "none" if batches is None else "an iterable without a batch",
                "batches=None, or an exhausted generator",
                'pass batches=, an iterable of (inputs, targets), or fold="constant", which needs none',
            )
        )
    return Folding(how, example_inputs, batches or (), loss, budget.params is None and budget.model_bytes is None)


@dataclass(frozen=True)
class Folding:
    """One request: how, over which batches, and may a bias be added where there is none?"""

    how: Literal["constant", "mean"]
    example_inputs: Any
    batches: Sequence[Any]
    loss: Loss = None
    grow: bool = True

    def into(
        self, graph: ChannelGraph, plan: PruningPlan, kept: Bools, model: nn.Module
    ) -> tuple[PruningPlan, list[str]]:
        """The plan with its folds, and what to say of them. kept: (n_atoms,).

        Raises ConfigError for a model without values (on the meta device).
        """
        if any(t.is_meta for _, t in named_tensors(model)):
            raise _without_values()
        folds, refused = readers(graph, plan, kept)
        with undisturbed(model):
            refused |= self._without_place(model, folds)
            folds = [f for f in folds if f.weight not in refused]
            found, notes = self._means(model, folds) if self.how == "mean" else self._constants(model, folds)
        refused |= {f.weight: "no batch reached it" for f in folds if f.weight not in found}
        refused |= {n: "it reads infinity or NaN on the batches" for n, v in found.items() if not v.isfinite().all()}
        filled = [replace(f, values=found[f.weight]) for f in folds if f.weight not in refused]
        used = tuple(f for f in filled if bool(f.values.any()))
        return _with(plan, used, graph), [_summary(self.how, used), *notes, *_refusals(refused)]

    # ------------------------------------------------------------------ values
    def _means(self, model: nn.Module, folds: list[Fold]) -> tuple[dict[str, Tensor], list[str]]:
        seen = self._over_batches(model, folds)
        return {name: s.total / s.count for name, s in seen.items()}, []

    def _constants(self, model: nn.Module, folds: list[Fold]) -> tuple[dict[str, Tensor], list[str]]:
        """What is proved, then what never changed over the batches; 0 where neither holds."""
        proved, why = _proofs(model, folds, self.example_inputs)
        measured = self._over_batches(model, folds) if self.batches else {}
        found: dict[str, Tensor] = {}
        count: Counter[str] = Counter()
        for name, sure in proved.items():
            found[name], told = _constant_values(sure, measured.get(name))
            count.update(told)
        said = f"of the removed inputs {count['proved']} do not depend on the input (of the example's shape), by proof"
        if self.batches:
            said += f"; {count['measured']} never changed over the batches, which is no proof"
        said += f"; {count['vary']} vary and are masked; what is always zero needs no folding"
        return found, [said, *(f"nothing could be proved constant: {reason}" for reason in why)]

    def _over_batches(self, model: nn.Module, folds: list[Fold]) -> dict[str, Seen]:
        copy = alias_copy(model).eval()
        watch = Watch(copy, folds)
        for batch in read_batches(self.batches, device_of(copy)):
            with watch:
                call(copy, inputs_of(batch)) if self.loss is None else self.loss(copy, batch)
        return watch.seen

    # ------------------------------------------------------------------ places
    def _without_place(self, model: nn.Module, folds: list[Fold]) -> dict[str, str]:
        """Of the contractions that lack a bias, those that cannot get one, and why."""
        new = [f for f in folds if f.into == "new bias"]
        if not self.grow:
            return {f.weight: "it has no bias, and a new one would cost what the budget counts" for f in new}
        used = self._used(model, new) if new else set()
        why = "it has no bias, and its module or forward no place for one"
        return {f.weight: why for f in new if f.name not in used}

    def _used(self, model: nn.Module, new: list[Fold]) -> set[str]:
        """Names of the biases that the forward would use if they were there: tried with zeros."""
        copy = alias_copy(model).eval()
        modules, tensors = dict(walk(copy)), dict(named_tensors(copy))
        biases: dict[str, Tensor] = {}
        for fold in new:
            module = modules[fold.name.rpartition(".")[0]]
            if module._parameters.get("bias", module) is None:  # declared, and left out
                weight = tensors[fold.weight]
                biases[fold.name] = module.bias = nn.Parameter(weight.new_zeros(weight.shape[1 - fold.axis]))
        tries = Tries(copy, [f for f in new if f.name in biases], biases)
        for args, kwargs in as_examples(self.example_inputs):
            with tries:
                copy(*args, **kwargs)
        return tries.used


def _proofs(model: nn.Module, folds: list[Fold], example_inputs: Any) -> tuple[dict[str, Seen], list[str]]:
    """What contractions read in the examples' passes, and what of it cannot depend on the inputs; why not, if void."""
    found: dict[str, Seen] = {}
    void: list[str] = []
    for args, kwargs in as_examples(example_inputs):
        copy = alias_copy(model).eval()
        depends = Depends(t for _, t in named_tensors(copy))
        watch = Watch(copy, folds, depends)
        with depends, watch:
            copy(*args, **kwargs)
        for name, seen in watch.seen.items():
            if depends.void and seen.proved is not None:
                seen.proved.zero_()
            if name in found:
                found[name].join(seen)
            else:
                found[name] = seen
        void += [depends.void] if depends.void else []
    return found, list(dict.fromkeys(void))


def _constant_values(sure: Seen, seen: Seen | None) -> tuple[Tensor, dict[str, int]]:
    """(n,) float64, 0 for what varies; how many of them are proved, measured or vary.

    Proved: independent of the input, and the same at every position but for rounding.
    """
    assert sure.proved is not None
    size = torch.maximum(sure.low.abs(), sure.high.abs())
    proved = sure.proved & (sure.high - sure.low <= 4 * sure.rounding * size)
    still = torch.zeros_like(proved)
    values = torch.where(proved, sure.total / sure.count, 0.0)
    if seen is not None and seen.count > 1:
        still = ~proved & (seen.low == seen.high)
        values = torch.where(still, seen.low, values)
    numbers = {"proved": proved, "measured": still, "vary": ~(proved | still)}
    return values, {what: int(which.sum()) for what, which in numbers.items()}


def _with(plan: PruningPlan, folds: tuple[Fold, ...], graph: ChannelGraph) -> PruningPlan:
    kept, shapes = dict(plan.kept), dict(plan.shapes)
    for fold in (f for f in folds if f.into == "new bias"):
        outputs = 1 - fold.axis
        if outputs in plan.kept[fold.weight]:
            kept[fold.name] = {0: plan.kept[fold.weight][outputs]}
            shapes[fold.name] = (graph.shapes[fold.weight][outputs],)
    return replace(plan, kept=kept, shapes=shapes, folds=folds)


def new_parameters(plan: PruningPlan, graph: ChannelGraph) -> int:
    """How many numbers the biases have that the dense network lacks."""
    new = [f for f in plan.folds if f.into == "new bias"]
    return sum(len(plan.kept[f.name][0]) if f.name in plan.kept else graph.shapes[f.weight][1 - f.axis] for f in new)


def _summary(how: str, folds: tuple[Fold, ...]) -> str:
    held = sum(int((f.values != 0).sum()) for f in folds)
    places = Counter(fold.into for fold in folds)
    where = ", ".join(f"{n} {into if n == 1 else _MANY[into]}" for into, n in places.items())
    return f'fold="{how}": {held} removed inputs of {len(folds)} contraction(s) folded into {where or "nothing"}'


def _refusals(refused: dict[str, str]) -> list[str]:
    by_reason: dict[str, list[str]] = defaultdict(list)
    for name, reason in refused.items():
        by_reason[reason].append(name)
    return [
        f"not folded: {', '.join(names[:5])}{' and others' if len(names) > 5 else ''}: {reason}"
        for reason, names in by_reason.items()
    ]


def _without_values() -> ConfigError:
    return ConfigError(
        message(
            "fold= needs the values of the weights",
            "a model on the meta device, which has shapes only",
            "the model was built under torch.device('meta') to save memory",
            "load the weights first, or leave fold= out",
        )
    )
