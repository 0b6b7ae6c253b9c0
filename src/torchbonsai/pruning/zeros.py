"""`Budget(zeros=True)`: channels that are zero already, and whose removal changes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from torchbonsai.graph.channel_graph import FROZEN, Bools, ChannelGraph, Role, Selection
from torchbonsai.graph.trace import named_tensors
from torchbonsai.surgery.gates import gate_sites
from torchbonsai.surgery.settle import Settler
from torchbonsai.surgery.verify import same_outputs


def select_zeros(graph: ChannelGraph, settler: Settler, model: nn.Module, example_inputs: Any) -> Selection:
    """Keep all but the atoms that nobody reads, and those that are made zero and stay zero until they are read.

    Whether they stay zero (sigmoid(0) is not) is asked of the numbers, group by group: a group whose removal changes
    the outputs in eval mode keeps its channels. One channel of a group always stays.
    """
    tensors = {n: t.detach() for n, t in named_tensors(model)}
    unread = _all_zero(graph, tensors, "consumes") & _read_by_weights_only(graph)
    unmade = _all_zero(graph, tensors, "produces") & _all_zero(graph, tensors, "follows", or_none=True)
    sure = _kept(graph, unread)
    kept = _kept(graph, unread | unmade)
    if not _unchanged(graph, settler, kept, model, example_inputs):
        kept = sure
        for g in graph.groups:
            place = slice(g.offset, g.offset + g.size)
            trial = sure.copy()
            trial[place] = _kept(graph, unread | unmade)[place]
            if not np.array_equal(trial, sure) and _unchanged(graph, settler, trial, model, example_inputs):
                kept[place] = trial[place]
    return {g.name: kept[g.offset : g.offset + g.size] for g in graph.groups}


def _all_zero(graph: ChannelGraph, tensors: dict[str, torch.Tensor], role: Role, or_none: bool = False) -> Bools:
    """(n_atoms,) are all slices of parameters in that role zero? False (or `or_none`) where there are none."""
    zero = np.ones(graph.n_atoms, dtype=bool)
    seen = np.zeros(graph.n_atoms, dtype=bool)
    for g in graph.groups:
        for b in g.bound(role):
            if b.name not in graph.parameters:
                continue
            weight = tensors[b.name].movedim(b.axis, 0).reshape(len(b.index), -1)
            empty = (weight == 0).all(1).cpu().numpy()
            here = b.index >= 0
            atoms = g.offset + b.index[here]
            np.logical_and.at(zero, atoms, empty[here])
            seen[atoms] = True
    return zero & (seen | or_none)


def _read_by_weights_only(graph: ChannelGraph) -> Bools:
    """(n_atoms,) do contractions with a plain weight alone read the atom, no statistic, and nobody outside?"""
    only = np.ones(graph.n_atoms, dtype=bool)
    for gate in gate_sites(graph).activations:
        only[gate.atoms[gate.atoms != FROZEN]] = False
    for atoms in (a for output in graph.outputs for a in output.values()):
        only[atoms[atoms != FROZEN]] = False
    for g in graph.groups:
        if g.inexact:
            only[g.offset : g.offset + g.size] = False
    return only


def _kept(graph: ChannelGraph, gone: Bools) -> Bools:
    kept = ~gone
    for g in graph.groups:
        mine = kept[g.offset : g.offset + g.size]
        mine[0] |= not mine.any()
    return kept


def _unchanged(graph: ChannelGraph, settler: Settler, kept: Bools, model: nn.Module, example_inputs: Any) -> bool:
    settled = settler.settle(graph, kept)
    return settled.small is None or same_outputs(model, settled.small, example_inputs)
