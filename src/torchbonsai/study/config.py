"""What a comparison is: its settings, checked and spelled out. One definition for the library and the command line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal

from torchbonsai.core.config import config_hash
from torchbonsai.core.errors import ConfigError, message
from torchbonsai.study.numerics import Numerics
from torchbonsai.training.config import TrainConfig

STARTS = ("untrained", "pretrained", "trained")
FAIRNESS = ("equal-epochs", "equal-compute")
SOURCES = {"fashion-target": "fashion-source", "fashion-target-28": "fashion-source-28", "cifar10": "cifar100"}
"""Data set -> what a pretrained start is trained on where nothing else is said."""
LISTS = ("starts", "methods", "budgets", "fairness", "augment")
NUMBERS = (
    *("epochs", "source_epochs", "start_epochs", "lr", "momentum", "weight_decay", "warmup_epochs"),
    "label_smoothing",
)
_PLACES = ("out", "data_dir", "workers")


@dataclass(frozen=True)
class CompareConfig:
    """Settings of `compare`; the result depends on all but `out`, `data_dir` and `workers`.

    Attributes:
        model: A name of the zoo, or package.module:factory.
        data: A data set's name.
        starts: Of untrained, pretrained, trained.
        methods: Of random, l1, l2, lamp, fpgm, bn-scale, apoz, activation-mean, taylor, hessian, snip, synflow, or
            package.module:factory of your own.
        budgets: MACs to keep: 4x (fewer), 25%, or 0.25.
        seeds: How many (3 means 0, 1, 2), or which.
        epochs: Of training on the target set, from the start on.
        fairness: Of equal-epochs, equal-compute; equal-compute:4x asks for it at that budget only.
        out: Folder for stages, records, report and the best network; a second run goes on where the first stopped.
        data_dir: Where the data set's official files are.
        source: Of the pretrained start: a data set, or a checkpoint file.
        source_epochs: Training on the source; default: as epochs.
        start_epochs: Training of the trained start; default: as epochs.
        limit_train: Train on so many images only.
        val_size: Images held out of the training images, to choose on.
        scope: One ranking over all groups, or the same share of each.
        round_to: Widths are multiples of this.
        score_images: Training images that a criterion may look at.
        lr: Learning rate at its highest, of SGD.
        momentum: Of Nesterov.
        weight_decay: On weights, not on norms and biases.
        batch_size: Images a step, at most.
        schedule: Of the learning rate.
        warmup_epochs: The learning rate rises over so many epochs.
        label_smoothing: Share of the target that is spread over all classes.
        augment: Of crop, flip, cutout.
        precision: Of the forward pass in training and testing; weights stay float32.
        channels_last: Memory layout of weights and images.
        device: Where to train.
        threads: Of torch in every process.
        workers: Processes; 0 is this one. Default: 2 where there are two cores.
    """

    model: str = "bonsai_small"
    data: str = "fashion-target"
    starts: tuple[str, ...] = STARTS
    methods: tuple[str, ...] = ("random", "l1", "apoz")
    budgets: tuple[str, ...] = ("4x",)
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: float = 12.0
    fairness: tuple[str, ...] = FAIRNESS
    out: str = "bonsai-out/compare"
    data_dir: str | None = None
    source: str | None = None
    source_epochs: float | None = None
    start_epochs: float | None = None
    limit_train: int | None = None
    val_size: int | None = None
    scope: Literal["global", "uniform", "knapsack"] = "global"
    round_to: int = 1
    score_images: int = 1000
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 128
    schedule: Literal["cosine", "step"] = "cosine"
    warmup_epochs: float = 1.0
    label_smoothing: float = 0.0
    augment: tuple[str, ...] = ()
    precision: Literal["float32", "bf16"] = "float32"
    channels_last: bool = False
    device: str = "cpu"
    threads: int = 1
    workers: int | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError for names that mean nothing and for lists that are empty or hold something twice."""
        for name in LISTS:  # "4x,16x" is two budgets
            object.__setattr__(self, name, names(getattr(self, name)))
        for name in NUMBERS:  # 2 and 2.0 are one setting, and one identity
            if getattr(self, name) is not None:
                object.__setattr__(self, name, float(getattr(self, name)))
        for name in ("starts", "methods", "budgets", "seeds", "fairness"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise _wrong(f"{name} must name at least one thing, and each once", repr(values))
        _among("starts", self.starts, STARTS)
        _among("fairness", [entry.partition(":")[0] for entry in self.fairness], FAIRNESS)
        budgets = {share_of(budget) for budget in self.budgets}
        if len(budgets) != len(self.budgets):
            raise _wrong("budgets must differ", repr(self.budgets))
        for entry in self.fairness:
            if entry.partition(":")[2]:
                _among("fairness", [entry.partition(":")[2]], self.budgets)
        if self.round_to < 1 or self.score_images < 1 or (self.workers is not None and self.workers < 0):
            raise _wrong(
                "round_to and score_images must be at least 1, workers at least 0",
                f"{self.round_to}, {self.score_images}, {self.workers}",
            )
        self._unused()
        self.training(self.epochs, 0)  # its own checks, before anything runs
        for epochs in (self.source_epochs, self.start_epochs):
            self.training(self.epochs if epochs is None else epochs, 0)

    def _unused(self) -> None:
        """Raises ConfigError for a setting of a start that is not compared: it would be ignored."""
        for name, start in (("source", "pretrained"), ("source_epochs", "pretrained"), ("start_epochs", "trained")):
            if getattr(self, name) is not None and start not in self.starts:
                got = f"{name}={getattr(self, name)!r} with starts {', '.join(self.starts)}"
                raise _wrong(f"{name} belongs to the {start!r} start, which must be among the starts", got)

    @property
    def numerics(self) -> Numerics:
        """The settings of the arithmetic."""
        return Numerics(self.threads, self.device, self.precision, self.channels_last)

    def training(self, epochs: float, seed: int) -> TrainConfig:
        """How a network is trained for so long."""
        return TrainConfig(
            epochs,
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.momentum > 0,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            schedule=self.schedule,
            warmup_epochs=self.warmup_epochs,
            label_smoothing=self.label_smoothing,
            augment=self.augment,
            precision=self.precision,
            channels_last=self.channels_last,
            seed=seed,
        )

    def fair(self, fairness: str) -> tuple[str, ...]:
        """The budgets that are compared under `fairness`."""
        asked = [entry.partition(":")[2] for entry in self.fairness if entry.partition(":")[0] == fairness]
        return tuple(b for b in self.budgets if "" in asked or b in asked)

    @property
    def identity(self) -> str:
        """A hash of all settings that the results depend on."""
        return config_hash({f.name: getattr(self, f.name) for f in fields(self) if f.name not in _PLACES})


def share_of(budget: str) -> float:
    """The share of the dense MACs to keep. Raises ConfigError unless it is in (0, 1].

    >>> share_of("4x"), share_of("25%"), share_of("0.25")
    (0.25, 0.25, 0.25)
    """
    text = budget.strip()
    try:
        if text.endswith("x"):
            share = 1 / float(text[:-1])
        else:
            share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except (ValueError, ZeroDivisionError):
        share = float("nan")
    if not 0 < share <= 1:
        raise _wrong("a budget is the MACs to keep: 4x, 25% or 0.25, in (0, 1]", repr(budget))
    return share


def config_of(**settings: Any) -> CompareConfig:
    """A config from what people write: one name instead of a tuple, commas, a number of seeds, budgets as numbers."""
    known = {f.name: f for f in fields(CompareConfig)}
    for name in settings:
        if name not in known:
            raise _wrong(f"compare takes {', '.join(known)}", name)
    spelled: dict[str, Any] = {
        k: str(v) if k in ("out", "data_dir", "source") and v else v for k, v in settings.items()
    }
    if "seeds" in spelled:
        spelled["seeds"] = seeds(spelled["seeds"])
    return CompareConfig(**spelled)


def names(value: Any) -> tuple[str, ...]:
    """One name or number or several, with commas or without, as a tuple of texts."""
    several = value if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    return tuple(part.strip() for entry in several for part in str(entry).split(",") if part.strip())


def seeds(value: int | Iterable[int]) -> tuple[int, ...]:
    """3 -> (0, 1, 2); several numbers: those."""
    if isinstance(value, int) and not isinstance(value, bool):
        return tuple(range(value))
    several = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else ()
    if several and all(isinstance(v, int) and not isinstance(v, bool) for v in several):
        return several
    raise _wrong("seeds must be a number of them, or several whole numbers", repr(value))


def _among(name: str, values: Iterable[str], known: Iterable[str]) -> None:
    unknown = [v for v in values if v not in tuple(known)]
    if unknown:
        raise _wrong(f"{name} must be of {', '.join(known)}", ", ".join(map(repr, unknown)))


def _wrong(must: str, got: str) -> ConfigError:
    return ConfigError(message(must, got, "a mistyped setting", "see `bonsai compare --help`"))
