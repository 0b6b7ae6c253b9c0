"""Stages that keep a training run's weights at several times, and that take one of them out again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from torch import Tensor, nn

from torchbonsai.core.config import write_atomic
from torchbonsai.core.errors import ConfigError, message
from torchbonsai.study.fairness import training_macs
from torchbonsai.study.numerics import Numerics
from torchbonsai.study.stage import Context, Inputs, Output, runs
from torchbonsai.study.stages.images import Images, opened
from torchbonsai.study.stages.network import Network, left, taken
from torchbonsai.study.stages.train import fitted
from torchbonsai.training.config import TrainConfig
from torchbonsai.training.report import EpochReport


@dataclass(frozen=True)
class Snapshots:
    """Train the parent "model", and keep its weights at `shares` of the run, each rounded to whole epochs.

    shares: ascending, within [0, 1]; 0 is before the first step.
    """

    data: Images
    training: TrainConfig
    numerics: Numerics
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        """Raises ConfigError for shares that do not ascend within [0, 1], or of which two are the same epoch."""
        if list(self.shares) != sorted(set(self.shares)) or not all(0 <= s <= 1 for s in self.shares):
            must = "shares of a run must ascend within [0, 1]"
            raise ConfigError(
                message(must, f"{self.shares}", "a percentage instead of a share", "e.g. (0.0, 0.5, 1.0)")
            )
        epochs_of(self.shares, self.training.epochs)


def epochs_of(shares: Sequence[float], epochs: float) -> list[int]:
    """The epoch whose end each share of a run is nearest to. Raises ConfigError where two have the same one.

    >>> epochs_of((0.0, 0.5, 1.0), 3)
    [0, 2, 3]
    """
    last = -int(-epochs // 1)
    found = [round(share * last) for share in shares]
    if len(set(found)) < len(found):
        raise ConfigError(
            message(
                "every checkpoint of a run must be of another epoch",
                f"shares {', '.join(f'{s:.0%}' for s in shares)} of {last} epochs, which are epochs {found}",
                "more checkpoints than epochs",
                "fewer checkpoints, or a longer run",
            )
        )
    return found


@dataclass(frozen=True)
class Snapshot:
    """The network that the parent "run" was at its snapshot of that number."""

    number: int


@runs(Snapshots, "snapshots", version=1, shared=True)
def snapshots(config: Snapshots, inputs: Inputs, context: Context) -> Output:
    """One run with one schedule; every snapshot is on disk before the checkpoint that is past it."""
    network, module = taken(inputs["model"])
    module.to(config.numerics.device)
    wanted = dict(enumerate(epochs_of(config.shares, config.training.epochs)))
    samples = dict.fromkeys((n for n, epoch in wanted.items() if epoch == 0), 0)
    first = context.team is None or context.team.rank == 0
    for number in samples if first else ():
        _keep(context.folder, number, module)

    def on_epoch(report: EpochReport) -> None:
        for number, epoch in wanted.items():
            if epoch == report.epoch:
                _keep(context.folder, number, module)

    splits = opened(config.data, context.places)
    history = fitted(module, splits, config.training, context, on_epoch)
    counts = [0]
    for report in history.epochs:
        counts.append(counts[-1] + report.samples)
    kept = wanted if first else ()  # the files are process 0's, and so is what is returned
    tensors = {f"{n}/{name}": t for n in kept for name, t in _kept(context.folder, n).items()}
    costs = [training_macs(network.macs, counts[epoch]) for epoch in wanted.values()]
    return Output({"network": network.to_json(), "training_macs": costs, "epochs": list(wanted.values())}, tensors)


@runs(Snapshot, "snapshot", version=1)
def snapshot(config: Snapshot, inputs: Inputs, context: Context) -> Output:
    """Its weights, and what training had cost by then."""
    network = Network.of(inputs["run"])
    prefix = f"{config.number}/"
    weights = {n.removeprefix(prefix): t for n, t in inputs["run"].tensors().items() if n.startswith(prefix)}
    module = network.small()
    module.load_state_dict(weights, strict=True)
    return left(network, module, training_macs=inputs["run"].result["training_macs"][config.number])


def _keep(folder: Path, number: int, module: nn.Module) -> None:
    state = {name: t.detach().cpu().clone().contiguous() for name, t in module.state_dict().items()}
    write_atomic(_file(folder, number), safetensors.torch.save(state))


def _kept(folder: Path, number: int) -> dict[str, Tensor]:
    found = safetensors.torch.load(_file(folder, number).read_bytes())
    _file(folder, number).unlink()
    return found


def _file(folder: Path, number: int) -> Path:
    return folder / f"snapshot-{number}.safetensors"
