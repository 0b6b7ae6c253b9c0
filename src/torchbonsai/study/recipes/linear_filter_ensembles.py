"""Linear filter ensembles (Sándor, Pável, Csató; arXiv 2001.08142): rank filters by a linear model over random masks.

The method section
1. Train the network; hold a part of its training images out of all weight updates. Or start from a checkpoint; where
   that has seen all training images, scores and choices get one half of the test set (`test_half`).
2. Draw masks of active and disabled filters, and measure the network's performance under each.
3. Fit a linear, additive model from mask to performance; a filter's coefficient is its importance.
4. Remove the least important filters, fine-tune, and repeat until the budget is met.

Controls: random channels with the same counts in every round, the last shape with new weights, uniform width from new
weights, the dense network fine-tuned in the same rounds. In a fully connected network a filter is a neuron.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from torchbonsai.core.config import added_later
from torchbonsai.core.errors import ConfigError, message
from torchbonsai.study.arms import EQUAL_COMPUTE, EQUAL_EPOCHS, Material
from torchbonsai.study.look import checkpoint_of
from torchbonsai.study.recipes.iterative import Iterative
from torchbonsai.study.recipes.kit import Kit, check_only, look_at
from torchbonsai.study.recipes.narrow import narrowest
from torchbonsai.study.recipes.settings import RoundSettings, check_methods
from torchbonsai.study.recipes.words import gap, smaller
from torchbonsai.study.record import RunRecord
from torchbonsai.study.settings import Settings, share_of, wrong
from torchbonsai.study.stage import Stage
from torchbonsai.training.start import checkpointed


@dataclass(frozen=True)
class LinearFilterEnsembles(RoundSettings):
    """Rank filters by a linear model over random masks, remove the least important, fine-tune, repeat.

    The paper's: masks of filters, a linear additive model of the performance, ranking by it, a ResNet on CIFAR-10 and
    a fully connected network. Ours: everything else, for only the abstract could be read: which ResNet, how masks are
    drawn (a layer at a time, balanced), the performance (minus the loss) and its images (held out of training), how
    many masks, the rounds, all training settings, controls and fairness.

    Attributes:
        start_epochs: Training before the first cut. Default: 100, and none from a checkpoint.
        checkpoint: Start from this file instead of start_epochs of training. Needs test_half or val_unseen.
        val_unseen: You know that the checkpoint was trained on none of the images that are scored and chosen on here.
        only: Modules whose channels may go, names or patterns; layer*.conv1: the inner channels of our ResNets.
        methods: What scores: lfe (4 masks a channel), lfe-quick (2, in bfloat16), lfe-accuracy (instead of the loss),
            lfe-agreement (with the classes that the network gives whole, instead of the loss; no labels),
            lfe-agreement-quick (2 masks, in bfloat16), lfe-global (masks over all layers at once), lfe-hadamard
            (orthogonal masks, half of a layer on), lfe-independent (instead of balanced), lfe-ridge (1 mask a channel,
            shrunk), lfe-settled (a layer's masks end once it is known which of its channels the round keeps, at one
            share of all layers: the cut itself with scope uniform, a guess at it with a ranking over layers),
            leave-one-out, others to compare with.
        budget: MACs to keep after the last round; every round removes the same share of what is left.
        scope: One ranking over all groups, the same share of each, or one ranking by importance per cost.
    """

    model: str = "resnet56"
    data: str = "cifar10"
    out: str = "bonsai-out/linear-filter-ensembles"
    augment: tuple[str, ...] = ("crop", "flip")
    start_epochs: float | None = None  # type: ignore[assignment]
    rounds: int = 3
    round_epochs: float = 20.0
    min_channels: int | float = 0.05
    checkpoint: str | None = None
    val_unseen: bool = False
    only: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("lfe",)
    budget: str = "2.78x"
    scope: Literal["global", "uniform", "knapsack"] = added_later("global")

    usual_hold_out: ClassVar[int] = 500
    usual_start_epochs: ClassVar[float] = 100.0
    lists: ClassVar[tuple[str, ...]] = ("methods", "only", *Settings.lists)

    def __post_init__(self) -> None:
        """Raises ConfigError for a method or a budget that is none, and for a checkpoint that may know the answers."""
        given = self.start_epochs
        if given is None or (self.checkpoint is not None and given == 0):  # 0: said below, and again by replace()
            object.__setattr__(self, "start_epochs", self.usual_start_epochs)
        super().__post_init__()
        check_methods(self.methods)
        share_of(self.budget)
        self._started(given)

    def _started(self, given: float | None) -> None:
        if self.checkpoint is None:
            if self.val_unseen:
                raise wrong("val_unseen says something of a checkpoint", "val_unseen without a checkpoint")
            return
        if self.test_half == self.val_unseen:
            raise _not_said(self.checkpoint, both=self.test_half)
        if given:
            raise wrong("a checkpoint's training is over: leave start_epochs out", f"start_epochs={given:g}")
        object.__setattr__(self, "start_epochs", 0.0)


def _not_said(checkpoint: str, *, both: bool) -> ConfigError:
    name = Path(checkpoint).name
    return ConfigError(
        message(
            "a start from a checkpoint needs images to score and choose on that it was not trained on",
            f"{name} with both test_half and val_unseen"
            if both
            else f"{name}, and nothing said about what it has seen",
            "weights from elsewhere have usually seen all training images, and a large network knows them by heart",
            "set test_half (--test-half): scores and choices on one half of the test set, accuracy on the other; or "
            "val_unseen (--val-unseen), if you know that it has not seen the validation images and those of hold_out",
        )
    )


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

    def look(self, settings: Any) -> tuple[Material, dict[str, str]]:
        """The model and the data; the checkpoint and the names of modules, if there are any, against the model."""
        material, places = look_at(settings)
        check_only(material, settings.only)
        if settings.checkpoint is None:
            return material, places
        source, more = checkpoint_of(settings.checkpoint)
        checkpointed(material.model, Path(settings.checkpoint).expanduser(), seed=0)
        return replace(material, source=source), {**places, **more}

    def more_data(self, kit: Kit) -> dict[str, str]:
        """The checkpoint."""
        return {} if self.settings.checkpoint is None else {"pretrained_on": self.settings.checkpoint}

    def starts(self, kit: Kit, seed: int) -> dict[str, Stage]:
        """Step 1: trained, without the images that are held out; or a checkpoint."""
        if self.settings.checkpoint is not None:
            return {"pretrained": kit.checkpoint(seed)}
        return {"trained": kit.train(kit.new(seed), self.settings.start_epochs, seed, f"dense network, seed {seed}")}

    def cut(self, kit: Kit, method: str, seed: int, model: Stage, number: int) -> Stage:
        """Steps 2 to 4: masks, the fit, the cut."""
        share = share_of(self.settings.budget) ** ((number + 1) / self.settings.rounds)
        config = replace(kit.prune(method, share, seed), only=self.settings.only, scope=self.settings.scope)
        return Stage(config, {"model": model}, f"{method}, round {number + 1}, seed {seed}")

    def sentences(self, records: Sequence[RunRecord]) -> list[str]:
        """How much smaller, at what cost in accuracy against the dense network trained as much."""
        found = [] if self.settings.checkpoint is None else [self._of_checkpoint()]
        for fairness in (EQUAL_EPOCHS, EQUAL_COMPUTE):
            here = [r for r in records if r.arm.fairness == fairness]
            for name in self.methods if here else ():
                mine = [r for r in here if r.arm.method == name or r.arm.control == "dense"]
                found.append(
                    f"{name} under {fairness} left {smaller(mine, 'params')} and {smaller(mine, 'macs')}; against the "
                    f"dense network trained as much its test accuracy is {gap(mine, '', 'dense')}."
                )
                scored = [s for r in mine if r.arm.control == "" for s in r.scored]
                found += _sure(name, fairness, scored) + _settled(name, fairness, scored)
        return found + narrowest(records, self.settings)

    def _of_checkpoint(self) -> str:
        s = self.settings
        seen = "scores and choices are on one half of the test set and accuracy on the other, for it may have seen all "
        said = (
            "it was said (val_unseen) that it has not seen the images of scores and choices; nothing here checks that"
        )
        return (
            f"Pretrained here is the checkpoint {Path(s.checkpoint).name}, trained elsewhere: that training is free, "
            "so that networks from new weights, which have this study's training alone, are at a disadvantage; "
            f"{seen + 'training images' if s.test_half else said}."
        )


def _sure(name: str, fairness: str, scored: Sequence[Mapping[str, float]]) -> list[str]:
    """How sure the scores are, where the method tells."""
    known = [s for s in scored if "standard_error" in s and "spread" in s]
    if not known:
        return []
    masks = sum(s["masks"] for s in known) / sum(s["channels"] for s in known)
    error, spread = (sum(s[what] for s in known) / len(known) for what in ("standard_error", "spread"))
    return [
        f"{name} under {fairness}: {masks:.1f} masks a channel; a score's standard error (over other masks, not other "
        f"images) is {error:.2g} in the median of the channels, beside a standard deviation of all scores of "
        f"{spread:.2g} (means over {len(known)} scorings). A mask counts as one full forward pass of its images, "
        "more than was computed: only what lies behind a mask is run again."
    ]


def _settled(name: str, fairness: str, scored: Sequence[Mapping[str, float]]) -> list[str]:
    """In how many layers the ranking was known before the masks ran out, where sampling was to stop then."""
    asked = [s for s in scored if "settled" in s]
    if not asked:
        return []
    layers, settled = (int(sum(s[what] for s in asked)) for what in ("layers", "settled"))
    open_ones = f"; in the other {layers - settled} the masks ran out first" if settled < layers else ""
    doubt = sum(s["doubt"] * s["channels"] for s in asked) / sum(s["channels"] for s in asked)
    return [
        f"{name} under {fairness}: the ranking was settled, at the cut that sampling was to end at, in {settled} of "
        f"{layers} layers' samplings{open_ones}. By the errors over masks {doubt:.1%} of the "
        "channels are expected on the wrong side, within their layers, of the cuts that were made."
    ]
