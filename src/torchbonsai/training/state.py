"""A training run at the end of an epoch, as a dict of tensors: enough to go on to the same bits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from torchbonsai.core.config import config_hash
from torchbonsai.core.errors import DataError, message
from torchbonsai.data.splits import TrainSplit
from torchbonsai.training.config import TrainConfig
from torchbonsai.training.report import EpochReport
from torchbonsai.training.team import ALONE, Team

MODEL, OPTIMIZER, REPORTS, IDENTITY = "model/", "optimizer/", "reports", "identity"
RNG_DATA, RNG_CPU, RNG_CUDA = "rng/data", "rng/cpu", "rng/cuda"


@dataclass
class TrainState:
    """Given to `fit`, it is filled at the end of every epoch, before `on_epoch`; filled, `fit` goes on from it.

    Save `state_dict()` (safetensors will do: plain CPU tensors), and `TrainState.load` it in another process.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)

    @property
    def reports(self) -> list[EpochReport]:
        """The epochs that are done."""
        rows = self.tensors[REPORTS].tolist() if REPORTS in self.tensors else []
        return [_report(row) for row in rows]

    def state_dict(self) -> dict[str, Tensor]:
        """The state as CPU tensors, independent of the running one."""
        return {k: v.detach().cpu().clone() for k, v in self.tensors.items()}

    @classmethod
    def load(cls, tensors: Mapping[str, Tensor]) -> TrainState:
        """The state that `state_dict()` gave."""
        return cls(dict(tensors))

    def capture(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        reports: list[EpochReport],
        team: Team = ALONE,
    ) -> None:
        """Fill the state with copies of everything that decides how the run goes on, in every process of the team."""
        device = next(model.parameters()).device
        tensors = {MODEL + k: v for k, v in model.state_dict().items()}
        for number, entries in optimizer.state_dict()["state"].items():
            tensors |= {f"{OPTIMIZER}{number}/{k}": v for k, v in entries.items() if isinstance(v, Tensor)}
        tensors |= {RNG_DATA: generator.get_state(), IDENTITY: self.tensors[IDENTITY]}
        random = {RNG_CPU: torch.get_rng_state()}
        if device.type == "cuda":
            random[RNG_CUDA] = torch.cuda.get_rng_state(device)
        for name, own in random.items():  # each process draws its own dropout
            tensors |= {f"{name}{rank or ''}": drawn for rank, drawn in enumerate(team.gathered(own))}
        self.tensors = {k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
        self.tensors[REPORTS] = torch.tensor([_row(r) for r in reports], dtype=torch.float64)

    def open(self, identity: Tensor) -> None:
        """Bind the state to one run, `identity_of` it. Raises DataError where it is filled from another one."""
        if IDENTITY in self.tensors and not torch.equal(self.tensors[IDENTITY].cpu(), identity):
            raise _foreign("another configuration, data set or model")
        self.tensors[IDENTITY] = identity

    def restore(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator, rank: int = 0
    ) -> list[EpochReport]:
        """Put model, optimizer and random state where they were; returns the epochs done. Nothing where none is."""
        if REPORTS not in self.tensors:
            return []
        weights = _under(self.tensors, MODEL)
        try:
            model.load_state_dict(weights, strict=True)
        except RuntimeError as error:
            raise _foreign(str(error).splitlines()[0]) from error
        entries: dict[int, dict[str, Tensor]] = {}
        for key, value in _under(self.tensors, OPTIMIZER).items():
            number, _, name = key.partition("/")
            entries.setdefault(int(number), {})[name] = value
        optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
        generator.set_state(self.tensors[RNG_DATA].cpu())
        torch.set_rng_state(self.tensors[f"{RNG_CPU}{rank or ''}"].cpu())
        device, own = next(model.parameters()).device, f"{RNG_CUDA}{rank or ''}"
        if device.type == "cuda" and own in self.tensors:
            torch.cuda.set_rng_state(self.tensors[own].cpu(), device)
        return self.reports


def identity_of(model: nn.Module, config: TrainConfig, train: TrainSplit, processes: int = 1) -> Tensor:
    """(64,) uint8: a hash of what must be the same for a run to go on: settings, shapes, images, team."""
    shapes = {k: list(v.shape) for k, v in model.state_dict().items()}
    team = {"processes": processes} if processes > 1 else {}
    text = config_hash({"config": config, "images": _digest(train), "shapes": shapes, **team}, length=64)
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


@lru_cache(maxsize=2)
def _digest(train: TrainSplit) -> str:
    """Of all images and classes; one split is trained on many times, and reading it costs a tenth of a second."""
    digest = hashlib.sha256()
    for tensor in (train.x, train.y):
        pixels: Any = tensor.cpu().contiguous().numpy()  # hashed where it is, not copied first
        digest.update(pixels)
    return digest.hexdigest()


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _row(report: EpochReport) -> list[float]:
    values = (getattr(report, f.name) for f in fields(EpochReport))
    return [math.nan if v is None else float(v) for v in values]


def _report(row: list[float]) -> EpochReport:
    named = dict(zip((f.name for f in fields(EpochReport)), row, strict=True))
    counts = {k: int(named.pop(k)) for k in ("epoch", "steps", "samples")}
    val = named.pop("val_accuracy")
    return EpochReport(**counts, val_accuracy=None if math.isnan(val) else val, **named)  # type: ignore[arg-type]


def _foreign(got: str) -> DataError:
    return DataError(
        message(
            "a training run goes on from its own state only",
            got,
            "settings changed between the interrupted run and this one",
            "use the same settings, or start without the state",
        )
    )
