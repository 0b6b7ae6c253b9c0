"""Settings that every study has: what is trained, how, on what machine. One definition for library and command line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from torchbonsai.core.config import added_later, config_hash, said
from torchbonsai.core.errors import ConfigError, message
from torchbonsai.data.load import DataConfig
from torchbonsai.study.numerics import Numerics
from torchbonsai.training.config import TrainConfig

PLACES = ("out", "data_dir", "workers")
"""Settings on which no result depends."""
ARITHMETIC = ("precision", "channels_last", "compile")
"""Settings that precision="auto" chooses."""


@dataclass(frozen=True)
class Settings:
    """The result depends on all but `out`, `data_dir` and `workers`.

    Attributes:
        model: A name of the zoo, or package.module:factory.
        data: A data set's name.
        seeds: How many (3 means 0, 1, 2), or which.
        out: Folder for stages, records, report and the best network; a second run goes on where the first stopped.
        data_dir: Where the data set's official files are.
        limit_train: Train on so many images only.
        val_size: Images held out of the training images, to choose on.
        test_half: For checkpoints that have seen all training images: score and choose on a fixed half of the test set,
            a half of it each, and test on the other half.
        round_to: Widths are multiples of this.
        score_images: Training images that a criterion may look at.
        lr: Learning rate at its highest, of SGD.
        momentum: Of Nesterov.
        weight_decay: On weights, not on norms and biases.
        batch_size: Images a step, at most.
        schedule: Of the learning rate.
        warmup_epochs: The learning rate rises over so many epochs.
        label_smoothing: Share of the target that is spread over all classes.
        augment: Of crop, resized-crop, flip, cutout.
        image_size: Side of the squares that all images are scaled to. Default: as they are; 64 where they differ.
        precision: Of the forward pass in training and testing; weights stay float32. auto: the fastest precision,
            layout and compile on this device, measured once and kept with the study.
        channels_last: Memory layout of weights and images.
        compile: Train through torch.compile.
        device: Where to train.
        devices: Every training is shared out to so many devices (of cpu: processes), through Lightning Fabric. A batch
            is shared out, not multiplied; batch norm sees its own share. Scoring, cutting and testing use one.
        threads: Of torch in every process.
        workers: Processes; 0 is this one. Default: 2 where there are two cores; 1 with several devices.
        milestones: Shares of a training at which the step schedule takes a tenth of the learning rate.
        decay_depthwise: Weight decay on the weights of depthwise convolutions, too.
    """

    model: str = "bonsai_small"
    data: str = "fashion-target"
    seeds: tuple[int, ...] = (0, 1, 2)
    out: str = "bonsai-out/study"
    data_dir: str | None = None
    limit_train: int | None = None
    val_size: int | None = None
    test_half: bool = added_later(False)
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
    image_size: int | None = None
    precision: Literal["float32", "bf16", "auto"] = "float32"
    channels_last: bool = False
    compile: bool = False
    device: str = "cpu"
    devices: int = added_later(1)
    threads: int = 1
    workers: int | None = None
    milestones: tuple[float, ...] = added_later((0.5, 0.75))
    decay_depthwise: bool = added_later(True)

    lists: ClassVar[tuple[str, ...]] = ("augment",)
    numbers: ClassVar[tuple[str, ...]] = (
        *("lr", "momentum", "weight_decay", "warmup_epochs", "label_smoothing"),
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Raises ConfigError for names that mean nothing and for lists that are empty or hold something twice."""
        for name in self.lists:  # "4x,16x" is two budgets
            object.__setattr__(self, name, names(getattr(self, name)))
        for name in self.numbers:  # 2 and 2.0 are one setting, and one identity
            if getattr(self, name) is not None:
                object.__setattr__(self, name, number(name, getattr(self, name)))
        object.__setattr__(self, "seeds", seeds(self.seeds))
        object.__setattr__(self, "milestones", tuple(number("milestones", m) for m in names(self.milestones)))
        once("seeds", self.seeds)
        if self.round_to < 1 or self.score_images < 1 or (self.workers is not None and self.workers < 0):
            raise wrong(
                "round_to and score_images must be at least 1, workers at least 0",
                f"{self.round_to}, {self.score_images}, {self.workers}",
            )
        if self.precision == "auto" and (self.channels_last or self.compile):
            got = f"channels_last={self.channels_last}, compile={self.compile}"
            raise wrong("precision='auto' chooses channels_last and compile too: leave them out, or say all three", got)
        if self.precision == "auto" and self.devices > 1:
            raise wrong("precision='auto' measures one device; with several say which", f"devices={self.devices}")
        if self.schedule != "step" and self.milestones != type(self).milestones:
            raise wrong(
                "milestones, other than 0.5 and 0.75, are for schedule='step'",
                f"milestones={self.milestones}, schedule={self.schedule}",
            )
        if self.batch_size < self.devices:
            got = f"batch_size={self.batch_size}, devices={self.devices}"
            raise wrong("a batch must have an image for every device", got)
        self.training(1.0, 0)  # their own checks, before anything runs
        _ = self.concrete.numerics

    @property
    def concrete(self) -> Self:
        """The same settings with a precision that can be listed, counted and checked with, before one is measured."""
        return self if self.precision != "auto" else replace(self, precision="float32")

    @property
    def numerics(self) -> Numerics:
        """The settings of the arithmetic. Raises ConfigError while the precision is "auto"; see `study.settled`."""
        how = self.threads, self.device, self.precision, self.channels_last, self.compile
        return Numerics(*how, devices=self.devices)  # type: ignore[arg-type]

    def training(self, epochs: float, seed: int) -> TrainConfig:
        """How a network is trained for so long. While the precision is "auto", float32, and `numerics` is refused."""
        return TrainConfig(
            epochs,
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.momentum > 0,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            schedule=self.schedule,
            milestones=self.milestones,
            warmup_epochs=self.warmup_epochs,
            label_smoothing=self.label_smoothing,
            augment=self.augment,
            precision="bf16" if self.precision == "bf16" else "float32",
            channels_last=self.channels_last,
            compile=self.compile,
            seed=seed,
            decay_depthwise=self.decay_depthwise,
        )

    @property
    def data_config(self) -> DataConfig:
        """The images that are trained, chosen and tested on."""
        return DataConfig(
            self.data,
            self.data_dir,
            self.limit_train,
            self.val_size,
            image_size=self.image_size,
            test_half=self.test_half,
        )

    @property
    def identity(self) -> str:
        """A hash of all settings that the results depend on."""
        return config_hash({name: value for name, value in said(self).items() if name not in PLACES})


def share_of(budget: str) -> float:
    """The share of the dense network's to keep. Raises ConfigError unless it is in (0, 1].

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
        raise wrong("a budget is what to keep: 4x, 25% or 0.25, in (0, 1]", repr(budget))
    return share


def names(value: Any) -> tuple[str, ...]:
    """One name or number or several, with commas or without, as a tuple of texts."""
    several = value if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    return tuple(part.strip() for entry in several for part in str(entry).split(",") if part.strip())


def number(name: str, value: Any) -> float:
    """The number that `value` is, or says as text. Raises ConfigError for what is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise wrong(f"{name} must be a number", repr(value)) from None


def seeds(value: int | Iterable[int]) -> tuple[int, ...]:
    """3 -> (0, 1, 2); several numbers: those."""
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            raise wrong("seeds must name at least one", str(value))
        return tuple(range(value))
    several = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else ()
    if several and all(isinstance(v, int) and not isinstance(v, bool) for v in several):
        return several
    raise wrong("seeds must be a number of them, or several whole numbers", repr(value))


def once(name: str, values: tuple[Any, ...]) -> None:
    """Raises ConfigError for an empty list, and for one that names something twice."""
    if not values or len(set(values)) != len(values):
        raise wrong(f"{name} must name at least one thing, and each once", repr(values))


def among(name: str, values: Iterable[str], known: Iterable[str]) -> None:
    """Raises ConfigError for a value that is not known."""
    unknown = [v for v in values if v not in tuple(known)]
    if unknown:
        raise wrong(f"{name} must be of {', '.join(known)}", ", ".join(map(repr, unknown)))


def wrong(must: str, got: str) -> ConfigError:
    """The error for a setting that means nothing."""
    return ConfigError(message(must, got, "a mistyped setting", "see --help of the command"))
