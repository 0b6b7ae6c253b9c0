"""Linear filter ensembles (Sándor, Pável, Csató; arXiv 2001.08142): rank filters by a linear model over random masks.

The method section
1. Train the network; hold a part of its training images out of all weight updates.
2. Draw masks of active and disabled filters, and measure the network's performance under each.
3. Fit a linear, additive model from mask to performance; a filter's coefficient is its importance.
4. Remove the least important filters, fine-tune, and repeat until the budget is met.

Controls: random channels with the same counts in every round, the last shape with new weights, uniform width from new
weights, the dense network fine-tuned in the same rounds. In a fully connected network a filter is a neuron.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torchbonsai.study.arms import EQUAL_COMPUTE, EQUAL_EPOCHS
from torchbonsai.study.recipes.iterative import Iterative
from torchbonsai.study.recipes.kit import Kit
from torchbonsai.study.recipes.settings import RoundSettings, check_methods
from torchbonsai.study.recipes.words import gap, smaller
from torchbonsai.study.record import RunRecord
from torchbonsai.study.settings import Settings, share_of
from torchbonsai.study.stage import Stage


@dataclass(frozen=True)
class LinearFilterEnsembles(RoundSettings):
    """Rank filters by a linear model over random masks, remove the least important, fine-tune, repeat.

    The paper's: masks of filters, a linear additive model of the performance, ranking by it, a ResNet on CIFAR-10 and
    a fully connected network. Ours: everything else, for only the abstract could be read: which ResNet, how masks are
    drawn (a layer at a time, balanced), the performance (minus the loss) and its images (held out of training), how
    many masks, the rounds, all training settings, controls and fairness.

    Attributes:
        methods: What scores, beside the paper's lfe.
        budget: MACs to keep after the last round; every round removes the same share of what is left.
    """

    model: str = "resnet56"
    data: str = "cifar10"
    out: str = "bonsai-out/linear-filter-ensembles"
    augment: tuple[str, ...] = ("crop", "flip")
    start_epochs: float = 100.0
    rounds: int = 3
    round_epochs: float = 20.0
    hold_out: int = 500
    methods: tuple[str, ...] = ("lfe",)
    budget: str = "2.78x"

    lists: ClassVar[tuple[str, ...]] = ("methods", *Settings.lists)

    def __post_init__(self) -> None:
        """Raises ConfigError for a method or a budget that is none."""
        super().__post_init__()
        check_methods(self.methods)
        share_of(self.budget)


class Recipe(Iterative):
    """The arms of linear filter ensembles."""

    name: ClassVar[str] = "linear-filter-ensembles"
    config: ClassVar[type[LinearFilterEnsembles]] = LinearFilterEnsembles
    method: ClassVar[str] = (
        "Sándor, Pável, Csató: Pruning CNN's with linear filter ensembles, arXiv 2001.08142. The paper's: masks of "
        "active and disabled filters, a linear additive model from mask to performance, ranking by its coefficients, "
        "a ResNet on CIFAR-10 (60 % of the parameters and 64 % of the FLOPs removed) and a fully connected network. "
        "Only its abstract could be read. Ours: which ResNet, how masks are drawn and how many, minus the loss on "
        "images held out of training as the performance, the rounds, all training settings, controls and fairness."
    )

    def starts(self, kit: Kit, seed: int) -> dict[str, Stage]:
        """Step 1: trained, without the images that are held out."""
        return {"trained": kit.train(kit.new(seed), self.settings.start_epochs, seed, f"dense network, seed {seed}")}

    def cut(self, kit: Kit, method: str, seed: int, model: Stage, number: int) -> Stage:
        """Steps 2 to 4: masks, the fit, the cut."""
        share = share_of(self.settings.budget) ** ((number + 1) / self.settings.rounds)
        return Stage(kit.prune(method, share, seed), {"model": model}, f"{method}, round {number + 1}, seed {seed}")

    def sentences(self, records: Sequence[RunRecord]) -> list[str]:
        """How much smaller, at what cost in accuracy against the dense network trained as much."""
        found = []
        for fairness in (EQUAL_EPOCHS, EQUAL_COMPUTE):
            here = [r for r in records if r.arm.fairness == fairness]
            for name in self.methods if here else ():
                mine = [r for r in here if r.arm.method == name or r.arm.control == "dense"]
                found.append(
                    f"{name} under {fairness} left {smaller(mine, 'params')} and {smaller(mine, 'macs')}; against the "
                    f"dense network trained as much its test accuracy is {gap(mine, '', 'dense')}."
                )
        return found
