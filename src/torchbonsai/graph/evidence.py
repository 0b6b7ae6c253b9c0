"""What a trace saw: label space, logs and roles. Amending it (one more equality or freeze) gives a new graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from torchbonsai.graph.channel_graph import Blocks, Ints, Source
from torchbonsai.graph.labels import Event, LabelSpace, Shadow, Solution
from torchbonsai.graph.record import Log


@dataclass(frozen=True, eq=False)
class Evidence:
    """labels: tensor name -> axis -> its raw labels. shadows: the same, as what the tensor carries.

    logs: one per mode and example, the eval ones first. proofs: the logs that a cut is proved against, which may be of
    a crop of the picture. blocks: what was asked for.
    """

    space: LabelSpace
    labels: Mapping[str, Mapping[int, Ints]]
    shadows: Mapping[str, Shadow]
    shapes: Mapping[str, tuple[int, ...]]
    parameters: frozenset[str]
    aliases: Mapping[str, str]
    logs: tuple[Log, ...]
    proofs: tuple[Log, ...]
    roles: Mapping[tuple[str, int], frozenset[str]]
    order: Mapping[str, int]
    solution: Solution
    notes: tuple[str, ...] = ()
    blocks: Blocks = field(default_factory=dict)

    @property
    def hollow(self) -> bool:
        """Were activations without values in the passes?"""
        return any(log.hollow for log in self.logs)

    def amended(
        self, equal: Iterable[tuple[Ints, Ints]] = (), frozen: Iterable[tuple[Ints, str, Source | None]] = ()
    ) -> Evidence:
        """The same evidence with more equalities and freezes; this one stays as it is."""
        space = LabelSpace(
            self.space.count,
            self.space.starts,
            self.space.owners,
            [*self.space.edges, *equal],
            [*self.space.frozen, *(Event(*f) for f in frozen)],
            self.space.inexact,
        )
        return replace(self, space=space, solution=space.solve())
