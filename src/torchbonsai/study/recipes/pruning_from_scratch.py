"""Pruning from Scratch (Wang et al., AAAI 2020; arXiv 1909.12579): find the widths on random weights, then train.

The method section
1. Expand: build the network with all its widths a quarter larger, at random weights, and freeze them.
2. Put a gate in [0, 1] on every channel, all one, and learn the gates alone: the loss plus strength * (mean gate -
   sparsity)^2, Adam, gates clipped after every step.
3. For a budget of MACs, counted against the unexpanded network, keep the largest gates of all layers, found by
   bisection on the global rank. One set of gates serves many budgets.
4. Train the widths that were found from new random weights: as many epochs as the dense network (Scratch-E), or as many
   more as they have fewer MACs (Scratch-B).

The second claim: widths from random weights are more diverse, and as good after training, than those from the
checkpoints of a training run. With `searches`, one width search each on so many random initialisations and on the
checkpoints at 0, 1/n … 1 of one run, all trained from new weights; correlation and spread of widths are told of the
initialisations and of the checkpoints after 0.

Controls at equal MACs: uniform width, widths drawn at random, the same gates shuffled, and gates learned on a trained
network; and the dense network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, ClassVar, Literal

from torchbonsai.core.config import added_later
from torchbonsai.models.build import takes_width
from torchbonsai.study.arms import DIVERSITY, EQUAL_COMPUTE, EQUAL_EPOCHS, Material
from torchbonsai.study.fairness import costliest, stretched_epochs
from torchbonsai.study.findings import ALPHA
from torchbonsai.study.recipes.chain import Chain, Draft, spent, spent_by
from torchbonsai.study.recipes.diversity import diversity
from torchbonsai.study.recipes.kit import Kit, check_only, look_at
from torchbonsai.study.recipes.narrow import narrowest
from torchbonsai.study.recipes.settings import RecipeSettings
from torchbonsai.study.recipes.words import points
from torchbonsai.study.record import Arm, RunRecord, Unit
from torchbonsai.study.runs import Finished
from torchbonsai.study.settings import Settings, once, share_of, wrong
from torchbonsai.study.stage import Stage
from torchbonsai.study.stages.gates import ByGates, LearnGates, Order
from torchbonsai.study.stages.renew import Reinitialise
from torchbonsai.study.stages.snapshots import Snapshot, Snapshots, epochs_of
from torchbonsai.study.stages.start import NewWeights
from torchbonsai.study.statistics import Interval, holm, paired

SCRATCH_B = "scratch-b"
"""The paper's budget training: epochs in the inverse proportion of the MACs, the search not counted."""
METHOD, SEARCH = "gates", 100_003


@dataclass(frozen=True)
class PruningFromScratch(RecipeSettings):
    """Learn gates on frozen random weights, take widths from them, train these from new weights.

    The paper's code's: expansion by 1.25, frozen random weights, gates after the norm, the squared penalty with
    strength 0.5 and sparsity 0.2, Adam at 0.01 for 10 epochs with projection to [0, 1], the global rank, training from
    new weights with x0.1 at 50 and 75 %, Scratch-E and Scratch-B. Ours: the last gates instead of the best on
    validation, no augmentation while gates are learned, norms that begin at 1, a floor of channels, images held out for
    validation, all controls but gates on a trained network, and equal compute.

    Attributes:
        budgets: MACs to keep, of the unexpanded network: 50%, or several. Default: 50%.
        epochs: Of training the widths that were found, and the dense network.
        score_images: Training images that gates are learned on.
        expand: Widths of the network that gates are learned on, as a multiple; 1 where the factory takes no width.
        gate_epochs: Of learning gates.
        gate_lr: Of Adam on the gates.
        sparsity: The mean that gates are pulled to.
        strength: Of that pull.
        scratch_b: Train once more, with epochs in the inverse proportion of the MACs.
        searches: Width searches, at every budget, on so many random initialisations, and on checkpoints of one run; 0:
            none.
        checkpoints: Of the run, beside its beginning; with searches at least 2, for they are told against each other.
        gate_batch: Images a step of the gates; default: as batch_size.
        only: Modules whose channels have gates and may go, names or patterns; layer*.conv1: the inner channels of our
            ResNets, which are what the code gates.
        budget: Another name of budgets, as in the other recipes.
    """

    model: str = "vgg16_bn"
    data: str = "cifar10"
    out: str = "bonsai-out/pruning-from-scratch"
    augment: tuple[str, ...] = ("crop", "flip")
    schedule: Literal["cosine", "step"] = "step"
    weight_decay: float = 1e-4
    warmup_epochs: float = 0.0
    start_epochs: float = 160.0
    score_images: int = 50000
    min_channels: int | float = 0.05
    budgets: tuple[str, ...] = ()
    epochs: float = 160.0
    expand: float = 1.25
    gate_epochs: int = 10
    gate_lr: float = 0.01
    sparsity: float = 0.2
    strength: float = 0.5
    scratch_b: bool = True
    searches: int = 0
    checkpoints: int = 10
    gate_batch: int | None = added_later(None)
    only: tuple[str, ...] = added_later(())
    budget: tuple[str, ...] = added_later(())

    usual_budgets: ClassVar[tuple[str, ...]] = ("50%",)
    either: ClassVar[tuple[str, ...]] = ("budgets", "budget")
    lists: ClassVar[tuple[str, ...]] = ("budgets", "budget", "only", *Settings.lists)
    numbers: ClassVar[tuple[str, ...]] = (
        *("epochs", "expand", "gate_lr", "sparsity", "strength"),
        *RecipeSettings.numbers,
    )

    def __post_init__(self) -> None:
        """Raises ConfigError for a budget that is none, numbers out of range, or more checkpoints than epochs."""
        super().__post_init__()
        object.__setattr__(self, "budgets", self.budgets or self.budget or self.usual_budgets)
        object.__setattr__(self, "budget", ())  # two names are one setting, and one identity
        once("budgets", self.budgets)
        for budget in self.budgets:
            share_of(budget)
        self.training(self.epochs, 0)
        if self.expand < 1 or self.gate_epochs < 1 or self.checkpoints < 1 or self.searches < 0 or self.searches == 1:
            got = f"{self.expand}, {self.gate_epochs}, {self.checkpoints}, {self.searches}"
            raise wrong("expand, gate_epochs and checkpoints must be at least 1, searches 0 or at least 2", got)
        if self.searches and self.checkpoints < 2:
            must = "searches compare trained checkpoints with each other: checkpoints must be at least 2"
            raise wrong(must, f"searches={self.searches}, checkpoints={self.checkpoints}")
        if not self.searches and self.checkpoints != type(self).checkpoints:
            must = "checkpoints are of searches, which compare them with random initialisations: give both"
            raise wrong(must, f"checkpoints={self.checkpoints}, searches=0")
        if self.searches:
            epochs_of(self.checkpointed, self.start_epochs)
        if self.searches and self.checkpoints > 100:
            raise wrong("checkpoints are named by whole percents of the run: at most 100", str(self.checkpoints))
        if self.gate_batch is not None and self.gate_batch < 1:
            raise wrong("gate_batch must be at least 1", f"{self.gate_batch}")

    @property
    def checkpointed(self) -> tuple[float, ...]:
        """The shares of the run after which widths are searched."""
        return tuple(k / self.checkpoints for k in range(self.checkpoints + 1))


class Recipe:
    """The arms of pruning from scratch."""

    name: ClassVar[str] = "pruning-from-scratch"
    config: ClassVar[type[PruningFromScratch]] = PruningFromScratch
    unit: ClassVar[Unit] = "macs"
    method: ClassVar[str] = (
        "Wang et al.: Pruning from Scratch, arXiv 1909.12579; settings from its official code. The paper's: an "
        "expanded network at frozen random weights, gates learned by Adam under a squared penalty on their mean, "
        "widths by the global rank of the gates at a budget of MACs of the unexpanded network, training from new "
        "weights, Scratch-E (here equal-epochs) and Scratch-B, gates of a trained network to compare with. Ours: the "
        "last gates instead of those best on validation, no augmentation while gates are learned, norms that begin at "
        "1, gates on every group of channels, where they are read (in residual networks the code gates the inner "
        "channels alone: --only; behind a depthwise convolution that is not after the norm), a floor of channels, "
        "training without the validation images, Nesterov, no weight decay on norms and biases, the other controls, "
        "and equal compute."
    )

    def __init__(self, settings: PruningFromScratch) -> None:
        self.settings = settings

    def look(self, settings: Any) -> tuple[Material, dict[str, str]]:
        """The model and the data; the names of modules, if there are any, against the model."""
        material, places = look_at(settings)
        check_only(material, settings.only)
        return material, places

    def more_data(self, kit: Kit) -> dict[str, str]:
        """How far the network was expanded."""
        return {"expanded": f"widths times {self._expansion(kit):g}"}

    # ------------------------------------------------------------------ the method section
    def _expansion(self, kit: Kit) -> float:
        return self.settings.expand if takes_width(kit.material.model.name) else 1.0

    def _expanded(self, kit: Kit, seed: int) -> Stage:
        """Step 1."""
        m = kit.material
        model = replace(m.model, width=m.model.width * self._expansion(kit))
        return Stage(NewWeights(model, m.target, seed, m.code), label=f"expanded network, seed {seed}")

    def _gates(self, kit: Kit, frozen: Stage, seed: int) -> Stage:
        """Step 2."""
        s = self.settings
        config = LearnGates(
            kit.material.target, seed, kit.settings.numerics, s.sparsity, s.strength, s.gate_epochs, s.gate_lr
        )
        config = replace(config, batch_size=s.gate_batch or s.batch_size, images=s.score_images, only=s.only)
        return Stage(config, {"model": frozen}, f"learning gates, seed {seed}")

    def _found(self, kit: Kit, frozen: Stage, gates: Stage | None, budget: str, order: Order, seed: int) -> Stage:
        """Step 3, and the new weights of step 4."""
        s = self.settings
        cut = ByGates(
            kit.material.target,
            share_of(budget),
            seed,
            kit.settings.numerics,
            order,
            s.min_channels,
            s.round_to,
            s.only,
        )
        parents = {"model": frozen, "dense": kit.new(seed)} | ({} if gates is None else {"gates": gates})
        widths = Stage(cut, parents, f"widths by gates ({order}) at {budget}, seed {seed}")
        return Stage(Reinitialise(seed), {"model": widths}, f"new weights ({order}) at {budget}, seed {seed}")

    # ------------------------------------------------------------------ the arms
    def chains(self, kit: Kit, finished: Finished) -> Sequence[Chain | Draft]:
        """Scratch-E first; then what follows from the MACs that were found."""
        s = self.settings
        equal = [c for seed in s.seeds for c in self._equal_epochs(kit, seed)]
        searched = [c for seed in s.seeds for c in self._searches(kit, seed)] if s.searches else []
        if not all(c.done(finished) for c in equal):
            return [*equal, *searched]
        small = [c for c in equal if c.arm.control != "dense"]
        more = [self._again(kit, c, SCRATCH_B, self._inverse(c, finished)) for c in small] if s.scratch_b else []
        for budget in s.budgets if s.equal_compute else ():
            here = [c for c in small if c.arm.budget == budget]
            total = costliest(spent(c, finished) for c in here)
            for chain in (*here, *self._dense(kit, budget)):
                before = spent_by(chain.start, (), finished).total + self._searched(chain, finished)
                macs = finished[chain.network.spec].result["network"]["macs"]
                epochs = stretched_epochs(total, before, macs, kit.material.epoch)
                more.append(replace(self._again(kit, chain, EQUAL_COMPUTE, epochs), total=total))
        return [*equal, *more, *searched]

    def _equal_epochs(self, kit: Kit, seed: int) -> list[Chain]:
        """Every arm of a seed, trained for `epochs`."""
        s, frozen = self.settings, self._expanded(kit, seed)
        trained = kit.train(frozen, s.start_epochs, seed, f"expanded network, trained, seed {seed}")
        gates = self._gates(kit, frozen, seed)
        of_trained = self._gates(kit, trained, seed)
        made = []
        for budget in s.budgets:
            arms: list[tuple[Arm, Stage, Stage | None, Order]] = [
                (Arm("untrained", METHOD, "", budget, EQUAL_EPOCHS), frozen, gates, "rank"),
                (Arm("trained", METHOD, "", budget, EQUAL_EPOCHS), trained, of_trained, "rank"),
                (Arm("untrained", METHOD, "shuffled", budget, EQUAL_EPOCHS), frozen, gates, "shuffled"),
                (Arm("untrained", "", "drawn-widths", budget, EQUAL_EPOCHS), frozen, None, "drawn"),
            ]
            for arm, start, learned, order in arms:
                made.append(self._chain(kit, arm, seed, start, self._found(kit, start, learned, budget, order, seed)))
            arm, start = kit.uniform(budget, seed, share_of(budget))
            made.append(kit.one_training(arm, seed, start, s.epochs))
        dense = Arm("untrained", "", "dense", "", EQUAL_EPOCHS)
        return [*made, kit.one_training(dense, seed, kit.new(seed), s.epochs)]

    def _searches(self, kit: Kit, seed: int) -> list[Chain]:
        """The second claim: other random initialisations, and the checkpoints of one training run."""
        s, m = self.settings, kit.material
        begins = {f"init {k}": self._expanded(kit, SEARCH * (seed + 1) + k) for k in range(1, s.searches + 1)}
        shares = s.checkpointed
        config = Snapshots(m.target, kit.settings.training(s.start_epochs, seed), kit.settings.numerics, shares)
        run = Stage(config, {"model": self._expanded(kit, seed)}, f"training run with checkpoints, seed {seed}")
        for number, share in enumerate(shares):
            begins[f"checkpoint {share:.0%}"] = Stage(Snapshot(number), {"run": run}, f"checkpoint {share:.0%}")
        made = []
        for budget, (name, begin) in product(s.budgets, begins.items()):
            found = self._found(kit, begin, self._gates(kit, begin, seed), budget, "rank", seed)
            made.append(self._chain(kit, Arm(name, METHOD, "", budget, DIVERSITY), seed, begin, found))
        return made

    def _chain(self, kit: Kit, arm: Arm, seed: int, start: Stage, found: Stage) -> Chain:
        name = f"{arm.start_name} {arm.name}"
        return kit.chain(arm, seed, start, (kit.step(found, start, self.settings.epochs, seed, name, 0, look=False),))

    def _dense(self, kit: Kit, budget: str) -> list[Chain]:
        arm = Arm("untrained", "", "dense", budget, EQUAL_EPOCHS)
        return [kit.one_training(arm, s, kit.new(s), self.settings.epochs) for s in self.settings.seeds]

    def _again(self, kit: Kit, chain: Chain, fairness: str, epochs: float) -> Chain:
        """The same arm, trained for so long."""
        step = chain.steps[0]
        arm = replace(chain.arm, fairness=fairness)
        longer = kit.step(
            step.cut, chain.start, epochs, chain.seed, f"{arm.start_name} {arm.name}, {fairness}", 0, look=False
        )
        return kit.chain(arm, chain.seed, chain.start, (longer,))

    def _inverse(self, chain: Chain, finished: Finished) -> float:
        network = finished[chain.network.spec].result["network"]
        return round(self.settings.epochs * network["dense_macs"] / network["macs"], 3)

    def _searched(self, chain: Chain, finished: Finished) -> int:
        """MACs of learning the gates."""
        return int(finished[chain.network.spec].result.get("scoring_macs", 0)) if chain.steps[0].cut is not None else 0

    def sentences(self, records: Sequence[RunRecord]) -> list[str]:
        """Gates on random weights against each control, and whether they needed a trained network."""
        found = self._learned(records)
        for budget, fairness in dict.fromkeys((r.arm.budget, r.arm.fairness) for r in records if r.arm.budget):
            here = [r for r in records if (r.arm.budget, r.arm.fairness) == (budget, fairness)]
            if fairness == DIVERSITY:
                found += diversity(here)
                continue
            own = _by_seed(here, "untrained", "")
            others = {
                "gates of a trained network": _by_seed(here, "trained", ""),
                "the same gates shuffled": _by_seed(here, "untrained", "shuffled"),
                "widths drawn at random": _by_seed(here, "untrained", "drawn-widths"),
                "uniform width": _by_seed(here, "untrained", "uniform-new"),
            }
            gaps = {name: paired(own, other) for name, other in others.items()}
            told = "; ".join(f"{name} {points(gap)}" for name, gap in gaps.items())
            found.append(
                f"At {budget} under {fairness}, test accuracy of gates on random weights minus that of {told}. "
                f"{_standing(gaps)}"
            )
        # The other fairnesses train the same widths for longer.
        return found + narrowest([r for r in records if r.arm.fairness in (EQUAL_EPOCHS, DIVERSITY)], self.settings)

    def _learned(self, records: Sequence[RunRecord]) -> list[str]:
        """How far the gates came."""
        found = []
        for start in ("untrained", "trained"):
            arm = (start, METHOD, "", EQUAL_EPOCHS)
            own = [r for r in records if (r.arm.start, r.arm.method, r.arm.control, r.arm.fairness) == arm]
            known = [*{r.seed: r.scored[0] for r in own if r.scored and "mean" in r.scored[0]}.values()]
            if known:
                mean, closed, whole, gates, steps = (
                    sum(k[what] for k in known) / len(known) for what in ("mean", "closed", "open", "gates", "steps")
                )
                found.append(
                    f"Gates on {start} weights, after {steps:.0f} steps: {mean:.2f} on average, which the penalty "
                    f"pulls to {self.settings.sparsity:g}; of {gates:.0f}, {closed:.0f} are closed and {whole:.0f} "
                    f"fully open (means over {len(known)} seeds)."
                )
        return found


def _by_seed(records: Sequence[RunRecord], start: str, control: str) -> dict[int, float]:
    return {r.seed: r.test_accuracy for r in records if (r.arm.start, r.arm.control) == (start, control)}


def _standing(gaps: Mapping[str, Interval]) -> str:
    """Which of several differences are shown when all of them are asked for."""
    asked = {name: gap.p for name, gap in gaps.items() if gap.p is not None}
    adjusted = dict(zip(asked, holm([*asked.values()]), strict=True))
    shown = [name for name, p in adjusted.items() if p < ALPHA]
    if not asked:
        return "There are too few seeds for an interval."
    return f"With Holm's correction at {ALPHA:.0%} over these {len(asked)}, shown: {', '.join(shown) or 'none'}."
