"""Evaluating many masks: replayed behind the gate where that is faithful, else one full forward a mask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchbonsai.core.errors import ConfigError, PruningError, message
from torchbonsai.cost.evaluate import device_of
from torchbonsai.criteria.base import Loss, ScoringContext
from torchbonsai.criteria.linear_fit import Floats
from torchbonsai.criteria.masks import Masks
from torchbonsai.graph.channel_graph import Bools, Ints
from torchbonsai.graph.forward import draw_alike
from torchbonsai.surgery.gated import GatedLoss
from torchbonsai.surgery.program import Program, UnreplayableError
from torchbonsai.surgery.recorder import record
from torchbonsai.surgery.replay import Replay
from torchbonsai.surgery.rewrite import channels_last, fold_norms, half_precision

ROUNDING = {torch.float64: 1e-10, torch.float32: 1e-5}
"""Dtype -> absolute and relative difference of two losses that counts as rounding at a mask. With all channels on,
where nothing but rounding can differ unless the replay is wrong, 100 times as much is allowed, and ten times what was
found there (TF32, say) at the masks."""
HELD_BYTES = 2**31
"""More than this is not kept of the forwards of several batches at once."""


class MaskedLoss:
    """The mean loss over all batches under masks of some atoms; to be used inside `undisturbed`, in eval mode.

    why: the reason why every mask takes a full forward; empty where only what lies behind the gate is run. Before the
    masks of a group are evaluated, the replay is compared with a full forward on the first batch, with all channels on
    and at the group's first mask; where they differ, full forwards are taken from then on, and `context.note` says so.

    Memory: what the ops behind a group's first gate read of the ops before it, for all batches up to `HELD_BYTES` in
    all, else for one batch at a time (and the way there is computed again for every group), and one mask's forward.
    """

    def __init__(self, context: ScoringContext, loss: Loss, *, replay: bool = True, half: bool = False) -> None:
        self.context, self.batches = context, context.data()
        self.gated = GatedLoss(context.graph, context.model, loss)
        self.lengths = [context.length_of(batch) for batch in self.batches]
        self.ones = torch.ones(context.graph.n_atoms, device=device_of(context.model))
        self.replays: list[Replay] = []
        self.dense: Tensor | None = None
        self.why = "" if replay else "it was asked to"
        if replay:
            self._record(half)

    def place(self, atoms: Ints) -> int:
        """A number that is smaller for atoms that are read earlier in the forward."""
        return self.replays[0].place(atoms) if self.replays else 0

    def groups(self) -> Iterator[tuple[int, Ints]]:
        """Every group's number and atoms, those that the forward reads first before the others."""
        spans = [np.arange(g.offset, g.offset + g.size) for g in self.context.graph.groups]
        yield from sorted(enumerate(spans), key=lambda span: self.place(span[1]))

    def losses(self, atoms: Ints, masks: Masks) -> Floats:
        """(K,) the mean loss under masks (K, len(atoms)); equal masks are evaluated once.

        Raises PruningError where one is not finite.
        """
        masks, of_mask = np.unique(masks, axis=0, return_inverse=True)
        gates = [self._gates(atoms, mask) for mask in masks]
        total = np.zeros(len(masks))
        for number, weight in enumerate(self.lengths):
            total += weight * np.array(self._of_batch(number, atoms, gates))
        mean: Floats = total / sum(self.lengths)
        if not np.isfinite(mean).all():
            worst = int(np.flatnonzero(~np.isfinite(mean))[0])
            raise _not_finite(float(mean[worst]), int((~masks[worst]).sum()))
        return mean[of_mask.reshape(-1)]

    def _of_batch(self, number: int, atoms: Ints, gates: list[Tensor]) -> list[float]:
        if self.replays and (number or self._faithful(atoms, gates[0])):
            replay = self.replays[number]
            replay.focus(atoms)
            losses = [replay(g) for g in gates]
            held = sum(r.held_bytes() for r in self.replays)
            replay.leave(forget=len(self.replays) > 1 and held > HELD_BYTES)
        else:
            losses = [self._full(self.batches[number], g) for g in gates]
        return [float(loss) for loss in losses]

    # ------------------------------------------------------------------ replays
    def _record(self, half: bool) -> None:
        try:
            programs = [self._recorded(batch) for batch in self.batches]
        except UnreplayableError as error:
            self._fall_back(str(error))
            return
        if half and not any(dtype == torch.float32 for dtype, _ in programs[0].like.values()):
            raise _no_float32()
        self.replays = [Replay(_fast(program, half)) for program in programs]
        self.control = Replay(_fast(programs[0], half=False)) if half else self.replays[0]

    def _recorded(self, batch: Any) -> Program:
        draw_alike()
        return record(self.gated, batch)

    def _faithful(self, atoms: Ints, first: Tensor) -> bool:
        """Does the replay give what a full forward gives, in the model's own precision?"""
        self.control.focus(atoms)
        if self.dense is None:
            self.dense = self._full(self.batches[0], self.ones)
        rounding = ROUNDING.get(self.dense.dtype, ROUNDING[torch.float32])
        allowed = 100 * rounding
        for g, full in ((self.ones, self.dense), (first, self._full(self.batches[0], first))):
            behind, whole = float(self.control(g)), float(full)
            if not np.isclose(behind, whole, allowed, allowed, equal_nan=True):
                self._fall_back(f"a full forward gives {whole:.6g} where the replay gives {behind:.6g}")
                return False
            allowed = max(rounding, 10 * abs(behind - whole) / (1 + abs(whole)))
        return True

    def _fall_back(self, why: str) -> None:
        self.why, self.replays = why, []
        self.context.note(f"every mask takes a full forward, because {why}")

    # ------------------------------------------------------------------ one mask
    def _gates(self, atoms: Ints, mask: Bools) -> Tensor:
        g = self.ones.clone()
        g[torch.from_numpy(atoms[~mask]).to(g.device)] = 0
        return g

    def _full(self, batch: Any, g: Tensor) -> Tensor:
        draw_alike()
        return self.gated(batch, g)


def _fast(program: Program, half: bool) -> Program:
    """A copy with norms folded, on CPUs and in half precision channels last."""
    made = replace(program, ops=list(program.ops), like=dict(program.like))
    fold_norms(made)
    if half or all(value.device.type == "cpu" for value in made.constants.values()):
        channels_last(made)
    if half:
        half_precision(made, torch.bfloat16)
    return made


def _not_finite(loss: float, off: int) -> PruningError:
    return PruningError(
        message(
            "the loss of the masked network must be finite",
            f"{loss} with {off} channels off",
            "a loss that takes the logarithm of what masks make zero, or an overflow",
            "use a loss that stays finite, or a higher keep=",
        )
    )


def _no_float32() -> ConfigError:
    return ConfigError(
        message(
            "precision='bf16' needs a network in float32",
            "a forward without float32 values",
            "a model that is in half or double precision already",
            "precision='model'",
        )
    )
