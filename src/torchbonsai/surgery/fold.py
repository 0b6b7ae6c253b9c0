"""What removed channels gave their readers when they were constant, kept as data: a number for each of their inputs.

Where a contraction read c_j at input j, and j is removed, its output loses the sum over j of W[:, j] * c_j (over all
taps of a convolution's kernel). That is added to the contraction's bias, or taken off the running mean of the batch
norm that alone reads it: to subtract a smaller mean is to add.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

Into = Literal["bias", "new bias", "running mean"]


@dataclass(frozen=True, eq=False)
class Fold:
    """The removed inputs of one contraction, held at constants.

    weight: the parameter whose axis `axis`, `width` positions long in the dense network, is contracted; for a grouped
    convolution each of `groups` parts of its input runs along it. positions: (n,) int64 dense input channels that are
    removed, ascending; values: (n,) float64, what each is held at, 0 where nothing was folded. name: the tensor that
    takes up the difference; into: what that is. A new bias is one where the dense network has none. padded: the
    contraction pads with zeros, where the held channel would be zero too; its bias cannot know of the border.
    """

    weight: str
    axis: int
    groups: int
    width: int
    positions: Tensor
    values: Tensor
    name: str
    into: Into
    padded: bool = False

    def __str__(self) -> str:
        held = int((self.values != 0).sum())
        inexact = "; not exact at the zero-padded border" if self.padded else ""
        return f"{held} of {len(self.positions)} removed inputs of {self.weight} folded into {self.name}{inexact}"

    def shift(self, weight: Tensor) -> Tensor:
        """(outputs,) float64: what is added to `name`; weight: the dense one."""
        held = torch.zeros(self.groups * self.width, dtype=torch.float64, device=weight.device)
        held[self.positions.to(weight.device)] = self.values.to(weight.device)
        taps = weight.detach().double().movedim(self.axis, 1).unsqueeze(-1).flatten(2).sum(2)
        parts = taps.reshape(self.groups, -1, self.width)
        lost = (parts @ held.reshape(self.groups, self.width, 1)).flatten()
        return -lost if self.into == "running mean" else lost

    def to_json(self) -> dict[str, Any]:
        """JSON data."""
        return vars(self) | {"positions": self.positions.tolist(), "values": self.values.tolist()}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Fold:
        """The fold that `to_json` described. Raises ValueError, TypeError or KeyError for anything else."""
        positions = torch.tensor(data["positions"], dtype=torch.int64)
        values = torch.tensor(data["values"], dtype=torch.float64)
        if data["into"] not in get_args(Into) or positions.shape != values.shape:
            raise ValueError(f"a fold into {data['into']!r} of {tuple(values.shape)} values")
        return Fold(**(dict(data) | {"positions": positions, "values": values}))


def in_dense(fold: Fold, stays: Tensor, width: int) -> Fold:
    """A fold of a network that was cut before, in positions of the original.

    stays: what that cut left of the weight's contracted axis, `width` positions long in the original.
    """
    part, place = fold.positions // fold.width, fold.positions % fold.width
    return replace(fold, positions=part * width + stays[place], width=width)


def newborn(folds: tuple[Fold, ...], tensors: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    """The biases that the dense network, whose `tensors` these are, lacks: (outputs,) zeros like their weight."""
    found = {}
    for fold in folds:
        if fold.into == "new bias" and fold.weight in tensors and fold.name not in tensors:
            weight = tensors[fold.weight]
            found[fold.name] = nn.Parameter(
                weight.detach().new_zeros(weight.shape[1 - fold.axis]), weight.requires_grad
            )
    return found


def shifts(folds: tuple[Fold, ...], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name -> (outputs,) float64, all that the folds add to it. weights: the dense ones."""
    found: dict[str, Tensor] = {}
    for fold in folds:
        shift = fold.shift(weights[fold.weight])
        found[fold.name] = found[fold.name] + shift if fold.name in found else shift
    return found
