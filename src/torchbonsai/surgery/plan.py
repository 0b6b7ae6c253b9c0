"""A pruning plan: which positions of which tensors stay, and which attributes change. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import nn

from torchbonsai.core.errors import PlanError, message
from torchbonsai.graph.channel_graph import Bools, ChannelGraph, Inexact
from torchbonsai.graph.outputs import kept_positions
from torchbonsai.surgery.fold import Fold, in_dense

Kept = Mapping[str, Mapping[int, torch.Tensor]]
"""Tensor name -> axis -> (kept,) int64 positions, ascending, on the CPU; narrowed axes only."""


@dataclass(frozen=True)
class AttributeEdit:
    """`module.attribute` changes from `old` to `new`; both are plain Python data."""

    module: str
    attribute: str
    old: Any
    new: Any


@dataclass(frozen=True, eq=False)
class Rescale:
    """Dense `positions` along `axis` of parameter `name` are multiplied by `factor`.

    So a number that the forward computes from a width (the softmax scale of a head) stays the dense network's.
    """

    name: str
    axis: int
    positions: torch.Tensor
    factor: float

    def __str__(self) -> str:
        rows = f"{len(self.positions)} rows of {self.name}"
        return f"{rows} multiplied by {self.factor:.4g}: the forward computes a number from their width"


@dataclass(frozen=True, eq=False)
class PruningPlan:
    """kept: see `Kept`, tied names included. shapes: dense shape of every narrowed tensor. edits: attributes.

    inexact: why removed channels change a number that the masked reference keeps; empty for an exact plan.
    moved: buffer of positions -> (old positions along its axis that stay), by which its values are renumbered.
    outputs: of each tensor that the eval forward returns, in order, axis -> positions that stay; empty if all do.
    scales: rows of parameters that are multiplied by a factor. folds: what removed channels gave their readers, added
    to biases; a new one is listed in `kept` and `shapes` as if the dense network had one of zeros.
    """

    kept: dict[str, dict[int, torch.Tensor]]
    shapes: dict[str, tuple[int, ...]]
    edits: tuple[AttributeEdit, ...] = ()
    inexact: tuple[Inexact, ...] = ()
    moved: Mapping[str, torch.Tensor] = field(default_factory=dict)
    outputs: tuple[Mapping[int, torch.Tensor], ...] = ()
    scales: tuple[Rescale, ...] = ()
    folds: tuple[Fold, ...] = ()

    @property
    def changed(self) -> frozenset[str]:
        """Names of the tensors that get other values: narrowed, renumbered, rescaled or folded into."""
        return frozenset((*self.kept, *self.moved, *(s.name for s in self.scales), *(f.name for f in self.folds)))

    def to_json(self) -> dict[str, Any]:
        """JSON data: version, kept positions, shapes, edits and reasons."""
        return {
            "version": 1,
            "kept": {n: {str(a): k.tolist() for a, k in axes.items()} for n, axes in self.kept.items()},
            "shapes": {n: list(s) for n, s in self.shapes.items()},
            "edits": [{"module": e.module, "attribute": e.attribute, "old": e.old, "new": e.new} for e in self.edits],
            "inexact": [i.reason for i in self.inexact],
            "moved": {n: k.tolist() for n, k in self.moved.items()},
            "scales": [
                {"name": s.name, "axis": s.axis, "positions": s.positions.tolist(), "factor": s.factor}
                for s in self.scales
            ],
            "outputs": [{str(a): k.tolist() for a, k in axes.items()} for axes in self.outputs],
            **({"folds": [f.to_json() for f in self.folds]} if self.folds else {}),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> PruningPlan:
        """The plan that `to_json` described; raises PlanError for anything else."""
        try:
            if data["version"] != 1:
                raise ValueError(f"version {data['version']}")
            kept = {n: _positions(axes) for n, axes in data["kept"].items()}
            edits = tuple(
                AttributeEdit(e["module"], e["attribute"], _tuples(e["old"]), _tuples(e["new"])) for e in data["edits"]
            )
            shapes = {n: tuple(s) for n, s in data["shapes"].items()}
            moved = {n: torch.tensor(k, dtype=torch.int64) for n, k in data["moved"].items()}
            outputs = tuple(_positions(axes) for axes in data.get("outputs", ()))
            scales = tuple(
                Rescale(s["name"], s["axis"], torch.tensor(s["positions"], dtype=torch.int64), s["factor"])
                for s in data.get("scales", ())
            )
            inexact = tuple(Inexact(r) for r in data["inexact"])
            folds = tuple(Fold.from_json(f) for f in data.get("folds", ()))
            return PruningPlan(kept, shapes, edits, inexact, moved, outputs, scales, folds)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlanError(
                message(
                    "A plan must be the JSON that PruningPlan.to_json writes, version 1.",
                    f"{type(error).__name__}: {error}",
                    "the file was written by another program or another version, or was cut off",
                    "make the plan again",
                )
            ) from error

    def transfer(
        self, optimizer: torch.optim.Optimizer, model: nn.Module, dense: nn.Module | None = None
    ) -> torch.optim.Optimizer:
        """A new optimizer for `model` (the small one) with the state of `optimizer`, sliced by this plan."""
        from torchbonsai.surgery.optimizer import transfer

        return transfer(self, optimizer, model, dense)

    def index_map(self, name: str, axis: int = 0) -> dict[int, int]:
        """Old position -> new position of what stays along one axis of one tensor.

        Raises PlanError where the plan does not narrow that axis.
        """
        if axis not in self.kept.get(name, {}):
            raise PlanError(
                message(
                    "index_map needs an axis that the plan narrows.",
                    f"{name!r} axis {axis}",
                    "the axis is kept whole, or the name is not a parameter or buffer",
                    f"narrowed tensors: {sorted(self.kept)[:5]} …",
                )
            )
        return {int(old): new for new, old in enumerate(self.kept[name][axis])}


def _positions(axes: Mapping[str, list[int]]) -> dict[int, torch.Tensor]:
    return {int(a): torch.tensor(k, dtype=torch.int64) for a, k in axes.items()}


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that module attributes hold."""
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def make_plan(graph: ChannelGraph, kept: Bools, model: nn.Module) -> PruningPlan:
    """The plan that keeps `kept` (n_atoms,), with the attributes of torch.nn's modules following their tensors."""
    from torchbonsai.surgery.attributes import standard_edits

    narrowed = graph.kept_positions(kept)
    for alias, name in graph.aliases.items():
        if name in narrowed:
            narrowed[alias] = narrowed[name]
    tensors = {n: {a: torch.from_numpy(p.copy()) for a, p in axes.items()} for n, axes in narrowed.items()}
    shapes = {n: graph.shapes[n] for n in tensors}
    reasons = dict.fromkeys(
        why for g in graph.groups for why in g.inexact if not kept[g.offset : g.offset + g.size].all()
    )
    with_frozen = np.append(kept, True)
    moved = {
        name: torch.from_numpy(np.flatnonzero(with_frozen[atoms]))
        for name, atoms in graph.pointers.items()
        if not with_frozen[atoms].all()
    }
    outputs = tuple(
        {a: torch.from_numpy(p) for a, p in kept_positions(output, kept).items()} for output in graph.outputs
    )
    edits = standard_edits(model, tensors, shapes)
    return PruningPlan(tensors, shapes, edits, tuple(reasons), moved, outputs if any(outputs) else ())


def compose(first: PruningPlan, second: PruningPlan) -> PruningPlan:
    """One plan against the original: `second` was made for the network that `first` left.

    Raises PlanError for a fold of `second` that counts on rows which `first` rescaled, where no bias takes that up.
    """
    first = _with_new_biases(first, second)
    kept = {n: dict(axes) for n, axes in first.kept.items()}
    shapes = dict(first.shapes)
    for name, axes in second.kept.items():
        kept[name] = _indexed(kept.get(name, {}), axes)
        shapes[name] = first.shapes.get(name, second.shapes[name])
    edits = {(e.module, e.attribute): e for e in first.edits}
    for e in second.edits:
        before = edits.get((e.module, e.attribute))
        edits[(e.module, e.attribute)] = AttributeEdit(e.module, e.attribute, before.old if before else e.old, e.new)
    reasons = tuple(dict.fromkeys((*first.inexact, *second.inexact)))
    moved = dict(first.moved)
    for name, stays in second.moved.items():
        moved[name] = moved[name][stays] if name in moved else stays
    outputs = tuple(_indexed(a or {}, b or {}) for a, b in zip_longest(first.outputs, second.outputs))
    scales = (*first.scales, *(_in_dense(first, s) for s in second.scales))
    folds = (*first.folds, *(_fold_in_dense(first, f) for f in second.folds))
    return PruningPlan(kept, shapes, tuple(edits.values()), reasons, moved, outputs, scales, folds)


def _with_new_biases(first: PruningPlan, second: PruningPlan) -> PruningPlan:
    """`first` as if it had cut, and rescaled, the biases that `second` adds along with their weights."""
    kept, shapes, scales = dict(first.kept), dict(first.shapes), [*first.scales]
    for fold in second.folds:
        outputs, new = 1 - fold.axis, fold.into == "new bias" and fold.name not in kept
        if new and outputs in kept.get(fold.weight, {}):
            kept[fold.name] = {0: kept[fold.weight][outputs]}
            shapes[fold.name] = (shapes[fold.weight][outputs],)
        rescaled = [s for s in first.scales if s.name == fold.weight]
        if any(s.axis != outputs for s in rescaled) or (rescaled and fold.into == "running mean"):
            raise _rescaled_before(fold)
        if new:
            scales += [replace(s, name=fold.name, axis=0) for s in rescaled]
    return replace(first, kept=kept, shapes=shapes, scales=tuple(scales))


def _rescaled_before(fold: Fold) -> PlanError:
    return PlanError(
        message(
            "A plan that folds must be one plan with what was cut before.",
            f"{fold.weight}, whose rows were rescaled before, folded into {fold.name}, which was not",
            "the code computes a number from a width, and a later cut was asked to fold constants",
            "make the later cut without fold=",
        )
    )


def _in_dense(first: PruningPlan, scale: Rescale) -> Rescale:
    """A rescaling of what `first` left, in positions of the original."""
    stays = first.kept.get(scale.name, {}).get(scale.axis)
    return scale if stays is None else replace(scale, positions=stays[scale.positions])


def _fold_in_dense(first: PruningPlan, fold: Fold) -> Fold:
    """A fold into what `first` left, in positions of the original."""
    stays = first.kept.get(fold.weight, {}).get(fold.axis)
    return fold if stays is None else in_dense(fold, stays, first.shapes[fold.weight][fold.axis])


def _indexed(first: Mapping[int, torch.Tensor], second: Mapping[int, torch.Tensor]) -> dict[int, torch.Tensor]:
    """Positions that stay after both: `second` counts what `first` left."""
    return dict(first) | {a: first[a][positions] if a in first else positions for a, positions in second.items()}
