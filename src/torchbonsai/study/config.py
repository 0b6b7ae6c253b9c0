"""What a comparison is: its settings, checked and spelled out. One definition for the library and the command line."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from torchbonsai.study.settings import Settings, among, names, once, seeds, share_of, wrong

__all__ = ["CompareConfig", "config_of", "names", "seeds", "share_of"]
STARTS = ("untrained", "pretrained", "trained")
FAIRNESS = ("equal-epochs", "equal-compute")
SOURCES = {"fashion-target": "fashion-source", "fashion-target-28": "fashion-source-28", "cifar10": "cifar100"}
"""Data set -> what a pretrained start is trained on where nothing else is said."""


@dataclass(frozen=True)
class CompareConfig(Settings):
    """Settings of `compare`.

    Attributes:
        starts: Of untrained, pretrained, trained.
        methods: Of random, l1, l2, lamp, bn-scale, fpgm, apoz, mean-activation, taylor, hessian, snip, synflow, gates,
            lfe and its kinds (lfe-quick: half as many masks, in bfloat16; the others in docs/compare.md), or
            package.module:factory of your own.
        budgets: MACs to keep: 4x (fewer), 25%, or 0.25.
        epochs: Of training on the target set, from the start on.
        fairness: Of equal-epochs, equal-compute; equal-compute:4x asks for it at that budget only.
        source: Of the pretrained start: a data set, or a checkpoint file.
        source_epochs: Training on the source; default: as epochs.
        start_epochs: Training of the trained start; default: as epochs.
        scope: One ranking over all groups, or the same share of each.
    """

    starts: tuple[str, ...] = STARTS
    methods: tuple[str, ...] = ("random", "l1", "apoz")
    budgets: tuple[str, ...] = ("4x",)
    epochs: float = 12.0
    fairness: tuple[str, ...] = FAIRNESS
    out: str = "bonsai-out/compare"
    source: str | None = None
    source_epochs: float | None = None
    start_epochs: float | None = None
    scope: Literal["global", "uniform", "knapsack"] = "global"

    lists: ClassVar[tuple[str, ...]] = ("starts", "methods", "budgets", "fairness", "augment")
    numbers: ClassVar[tuple[str, ...]] = ("epochs", "source_epochs", "start_epochs", *Settings.numbers)

    def __post_init__(self) -> None:
        """Raises ConfigError for names that mean nothing and for lists that are empty or hold something twice."""
        super().__post_init__()
        for name in ("starts", "methods", "budgets", "fairness"):
            once(name, getattr(self, name))
        among("starts", self.starts, STARTS)
        among("fairness", [entry.partition(":")[0] for entry in self.fairness], FAIRNESS)
        budgets = {share_of(budget) for budget in self.budgets}
        if len(budgets) != len(self.budgets):
            raise wrong("budgets must differ", repr(self.budgets))
        for entry in self.fairness:
            if entry.partition(":")[2]:
                among("fairness", [entry.partition(":")[2]], self.budgets)
        self._unused()
        for epochs in (self.epochs, self.source_epochs, self.start_epochs):
            self.training(self.epochs if epochs is None else epochs, 0)

    def _unused(self) -> None:
        """Raises ConfigError for a setting of a start that is not compared: it would be ignored."""
        for name, start in (("source", "pretrained"), ("source_epochs", "pretrained"), ("start_epochs", "trained")):
            if getattr(self, name) is not None and start not in self.starts:
                got = f"{name}={getattr(self, name)!r} with starts {', '.join(self.starts)}"
                raise wrong(f"{name} belongs to the {start!r} start, which must be among the starts", got)

    def fair(self, fairness: str) -> tuple[str, ...]:
        """The budgets that are compared under `fairness`."""
        asked = [entry.partition(":")[2] for entry in self.fairness if entry.partition(":")[0] == fairness]
        return tuple(b for b in self.budgets if "" in asked or b in asked)


def config_of(**settings: Any) -> CompareConfig:
    """A config from what people write: one name instead of a tuple, commas, a number of seeds, budgets as numbers."""
    known = {f.name: f for f in fields(CompareConfig)}
    for name in settings:
        if name not in known:
            raise wrong(f"compare takes {', '.join(known)}", name)
    spelled: dict[str, Any] = {
        k: str(v) if k in ("out", "data_dir", "source") and v else v for k, v in settings.items()
    }
    return CompareConfig(**spelled)
