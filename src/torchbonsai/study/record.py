"""What a run leaves: one JSON file, enough to make every table and figure from. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import cattrs

from torchbonsai.core.config import added_later, canonical_json, config_hash, write_atomic
from torchbonsai.core.errors import ArtifactError, message
from torchbonsai.study.fairness import Spent

CONTROLS = ("random-widths", "uniform-new", "dense", "reinitialised", "shuffled", "drawn-widths")
Unit = Literal["macs", "params", "channels"]
"""What a budget counts, and with it the size of a network: the name of a number of `RunRecord`."""
VOLATILE = ("latency", "timing", "environment")
"""Fields that may differ between an unbroken run and a continued one."""


@dataclass(frozen=True)
class Arm:
    """One way of getting a small network; with a seed, a run.

    start: "untrained", "pretrained" or "trained". method: a criterion's name; of the controls "random-widths",
    "reinitialised" and "shuffled" the method whose widths or scores they take; "" of the others. control: "" or one of
    CONTROLS. budget: as the user wrote it, "" of the dense control under equal-epochs, which belongs to all.
    source_counted: False on the row that shows a pretrained start once more with its source training free, as if
    downloaded. shape_of: of "reinitialised", the start that ended in that shape, where starts ended in different ones.
    fits: of "uniform-new", the arms ("start method") whose size it has, where those of a study differ by more than 2 %.
    """

    start: str
    method: str
    control: str
    budget: str
    fairness: str
    source_counted: bool = True
    shape_of: str = added_later("")
    fits: tuple[str, ...] = added_later(())

    @property
    def name(self) -> str:
        """For people, without the start."""
        names = {
            "": self.method,
            "random-widths": f"random channels, widths of {self.method}",
            "uniform-new": f"uniform width, new weights{', size of ' if self.fits else ''}{', '.join(self.fits)}",
            "dense": "dense network",
            "reinitialised": f"new weights, widths of {' '.join(filter(None, (self.method, self.shape_of)))}",
            "shuffled": f"shuffled {self.method}, new weights",
            "drawn-widths": "widths drawn at random, new weights",
        }
        return names[self.control]

    @property
    def start_name(self) -> str:
        """For people: the start, and whether its source training is free."""
        return self.start if self.source_counted else f"{self.start} (source free)"


@dataclass(frozen=True)
class Round:
    """A point of a curve: after the `epochs` since the start, at so many MACs, params and channels.

    after_cut: validation accuracy right after surgery, None where nothing was cut. recalibrated: the same with the
    batch norms' statistics taken anew, None also where there are none. val_accuracy: after the training that followed.
    """

    epochs: float
    macs: int
    params: int
    channels: int
    widths: dict[str, int]
    after_cut: float | None
    val_accuracy: float
    recalibrated: float | None = None


@dataclass(frozen=True)
class RunRecord:
    """A finished run. Accuracies in [0, 1]; test is read once, after the last epoch. macs: of one image, one
    multiply-add each. budget_macs: the ceiling, None of the dense control. widths: group -> channels kept.
    epochs: after the cut, or after the start where there are `rounds` of cutting and training, the points of a curve.
    total_macs_allowed: of equal-compute. notes: what cuts had to say. scored: of each cut, what is known of its scores
    (of linear filter ensembles, where sampling may stop early also how many of its "layers" were "settled", and the
    "doubt" at the cut that was made; of learned gates; of APoZ, as "apoz", its mean and percentiles by layer). latency,
    timing, environment: measured, and no part of what is compared between runs."""

    arm: Arm
    seed: int
    val_accuracy: float
    test_accuracy: float
    macs: int
    params: int
    dense_macs: int
    dense_params: int
    budget_macs: int | None
    widths: dict[str, int]
    dense_widths: dict[str, int]
    epochs: float
    samples: int
    spent: Spent
    total_macs_allowed: int | None
    verification: dict[str, Any]
    remade: str
    stages: dict[str, str]
    study: str
    versions: dict[str, str]
    latency: dict[str, Any] = field(default_factory=dict)
    timing: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    rounds: tuple[Round, ...] = ()
    notes: tuple[str, ...] = ()
    scored: tuple[dict[str, Any], ...] = ()

    @property
    def share(self) -> float:
        """MACs kept, of the dense network's."""
        return self.macs / self.dense_macs

    @property
    def channels(self) -> int:
        """Channels kept, of all groups."""
        return sum(self.widths.values())

    @property
    def name(self) -> str:
        """A file name: what the run is, and a hash that tells it from every other one."""
        arm = self.arm
        words = (arm.fairness, arm.budget, arm.start_name, arm.control, arm.method, f"seed{self.seed}")
        slug = "_".join("".join(c if c.isalnum() or c in ".-" else "-" for c in w).strip("-") for w in words if w)
        return f"{slug}_{config_hash([arm, self.seed, self.stages], 8)}"

    def to_json(self) -> dict[str, Any]:
        """As JSON data; `total` and `share` are written too, for readers without this class."""
        data = asdict(self)
        data["spent"]["total"] = self.spent.total
        return {"type": "RunRecord", "version": 1, "share": self.share, **data}

    def lasting(self) -> dict[str, Any]:
        """`to_json()` without what a second run may measure differently."""
        return {k: v for k, v in self.to_json().items() if k not in VOLATILE}

    @classmethod
    def from_json(cls, data: dict[str, Any], origin: str = "a record") -> RunRecord:
        """The inverse of `to_json`. Raises ArtifactError where the data is not such a record."""
        try:
            fields = dict(data)
            if (fields.pop("type"), fields.pop("version")) != ("RunRecord", 1):
                raise ValueError("of another type or version")
            fields.pop("share")
            fields["spent"] = {k: v for k, v in fields["spent"].items() if k != "total"}
            return cattrs.Converter(forbid_extra_keys=True).structure(fields, cls)
        except (KeyError, ValueError, TypeError, AttributeError, cattrs.BaseValidationError) as error:
            raise ArtifactError(
                message(
                    "a run record must hold the fields of RunRecord",
                    f"{origin}: {type(error).__name__}: {error}",
                    "a file of another version, or altered by hand",
                    "run the study again: what is done is kept, the records are written anew",
                )
            ) from error


def write(record: RunRecord, folder: Path) -> Path:
    """Write one record, all or nothing; returns its path."""
    path = folder / f"{record.name}.json"
    canonical_json(record.to_json())  # refuses NaN and what is no plain data before anything is written
    write_atomic(path, json.dumps(record.to_json(), indent=1))
    return path


def read(paths: Iterable[Path]) -> list[RunRecord]:
    """The records of these files. Raises ArtifactError for one that is missing or damaged."""
    return [RunRecord.from_json(_json(path), str(path)) for path in paths]


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ArtifactError(
            message("a record must be a JSON file", f"{path}: {error}", "a copy cut short", "run the study again")
        ) from error
