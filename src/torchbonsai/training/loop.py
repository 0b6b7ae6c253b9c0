"""The loop in sight: everything that happens to the weights between the first batch and the last."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchbonsai.data.augment import augmented, draw
from torchbonsai.data.prefetch import fits, gathered
from torchbonsai.data.splits import Splits, TrainSplit, ValSplit
from torchbonsai.training.accuracy import accuracy
from torchbonsai.training.checks import check_finite, check_kind, check_logits, check_number, trainable
from torchbonsai.training.compiled import compiled
from torchbonsai.training.config import TrainConfig
from torchbonsai.training.modes import autocast, flags_kept, laid_out, memory_format, seeded
from torchbonsai.training.report import EpochReport, History, StepReport
from torchbonsai.training.schedule import learning_rate, steps_per_epoch, total_steps
from torchbonsai.training.state import TrainState, identity_of
from torchbonsai.training.team import ALONE, Team

__all__ = ["accuracy", "fit", "make_optimizer"]
OnStep = Callable[[StepReport], None]


def fit(
    model: nn.Module,
    train: TrainSplit,
    config: TrainConfig,
    *,
    splits: Splits,
    val: ValSplit | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
    on_step: OnStep | None = None,
    state: TrainState | None = None,
    team: Team = ALONE,
) -> History:
    """Train `model` in place on its own device; training flags and the global random state are left as found.

    An epoch is one permutation of the images, in batches of even size. splits: for the mean, the deviation and the
    number of classes. val: evaluated after every epoch. state: see `TrainState`; a filled one is gone on from.
    The model stays in the memory layout that `config.channels_last` says; gradients are cleared. Same weights,
    config, threads and versions give the same bits, broken off and gone on or not. team: other processes that take
    their shares of the batches; all call this alike, with the same weights.
    Raises ConfigError for a model without trainable parameters or with another number of outputs, or a split of
    another kind; DataError for weights that are not finite, or a loss that becomes so.
    """
    check_kind(train, TrainSplit, "training")
    if val is not None:
        check_kind(val, ValSplit, "validation")
    check_finite(model)
    parameters = trainable(model)
    device = parameters[0].device
    images = train.to(device) if fits(train, device) else train
    total = total_steps(len(train), config)
    team.check(len(train) // steps_per_epoch(len(train), config), config.compile)
    with flags_kept(model), seeded(config.seed + team.rank, device), compiled(model, config.compile) as forward:
        generator = torch.Generator().manual_seed(config.seed)
        data = _Data(images, splits, config, generator, device, team)
        model.to(memory_format=memory_format(config.channels_last))  # type: ignore[call-overload]
        forward, optimizer = team.wrapped(forward), make_optimizer(model, config)
        reports: list[EpochReport] = []
        if state is not None:
            state.open(identity_of(model, config, train, team.size))
            reports = state.restore(model, optimizer, generator, team.rank)
        while (done := sum(r.steps for r in reports)) < total:
            model.train()
            report = _epoch(forward, optimizer, data, (len(reports) + 1, done), on_step)
            if val is not None:
                how = {"precision": config.precision, "channels_last": config.channels_last}
                measured = accuracy(model, val, splits, team=team, **how)  # type: ignore[arg-type]
                report = report.evaluated(measured)
            reports.append(report)
            if state is not None:
                state.capture(model, optimizer, generator, reports, team)
            if on_epoch is not None:
                on_epoch(report)
        optimizer.zero_grad(set_to_none=True)
    return History(tuple(reports))


def _epoch(
    model: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    data: _Data,
    position: tuple[int, int],
    on_step: OnStep | None,
) -> EpochReport:
    """One pass, or what is left of the run where that is less. position: (epoch, 1-based; steps done before it)."""
    epoch, done = position
    start = time.perf_counter()
    config, total = data.config, total_steps(len(data.train), data.config)
    sums = torch.zeros(2, dtype=torch.float64, device=data.device)  # of losses, of right answers; read once, at the end
    samples = 0
    for number, (inputs, targets, images) in enumerate(data.batches(total - done), start=done):
        lr = learning_rate(number, len(data.train), config)
        for group in optimizer.param_groups:
            group["lr"] = lr
        weight = data.team.weight(images, len(targets))
        sums += step(model, optimizer, inputs, targets, config, data.splits.classes, weight)
        samples += images
        if on_step is not None:
            on_step(StepReport(number + 1, total, lr, optimizer))
    mean_loss, right = (data.team.sum(sums) / samples).tolist()
    check_number(mean_loss, f"the training loss of epoch {epoch}")
    return EpochReport(epoch, number + 1 - done, samples, lr, mean_loss, right, None, time.perf_counter() - start)


@dataclass(frozen=True, eq=False)
class _Data:
    """What every epoch draws from. train: on the device, or beside it where it does not fit."""

    train: TrainSplit
    splits: Splits
    config: TrainConfig
    generator: torch.Generator
    device: torch.device
    team: Team

    def batches(self, limit: int) -> Iterator[tuple[Tensor, Tensor, int]]:
        """(images, classes, how many images the batch has in all processes) of one pass, at most `limit` batches.

        Order and augmentation are drawn for the whole pass, all processes alike, and moved to the device at once.
        """
        order = torch.randperm(len(self.train), generator=self.generator)
        chunks = order.to(self.train.x.device).tensor_split(steps_per_epoch(len(self.train), self.config))[:limit]
        sizes = [len(c) for c in chunks]
        drawn = draw(sizes, self.train.x.shape, self.config.augment, self.generator).to(self.device).split(sizes, dim=1)
        mine = [c[self.team.mine] for c in chunks]
        for (x, y), numbers, size in zip(gathered(self.train, mine, self.device), drawn, sizes, strict=True):
            x = augmented(x, self.splits, self.config.augment, numbers[:, self.team.mine])
            yield laid_out(x, self.config.channels_last), y, size


def step(
    model: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    targets: Tensor,
    config: TrainConfig,
    classes: int,
    weight: float = 1.0,
) -> Tensor:
    """One step; returns (2,) float64 on the device: the batch's summed loss, and how many it has right.

    weight: of the batch's gradient, beside those of other processes.
    """
    with autocast(inputs.device, config.precision):
        logits = check_logits(model(inputs), len(targets), classes)
        loss = F.cross_entropy(logits, targets, label_smoothing=config.label_smoothing)
    optimizer.zero_grad(set_to_none=True)
    (loss if weight == 1.0 else loss * weight).backward()
    optimizer.step()
    right = (logits.detach().argmax(1) == targets).sum()
    return torch.stack([loss.detach().double() * len(targets), right.double()])


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.SGD:
    """SGD with momentum; weight decay on weights only, that is on parameters of two axes and more.

    Raises ConfigError for a model without trainable parameters.
    """
    spared = set() if config.decay_depthwise else {id(weight) for weight in _depthwise(model)}
    parameters = trainable(model)
    decayed = [p for p in parameters if p.ndim > 1 and id(p) not in spared]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1 or id(p) in spared], "weight_decay": 0.0},
    ]
    filled = [g for g in groups if g["params"]]
    return torch.optim.SGD(filled, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, foreach=True)


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def _depthwise(model: nn.Module) -> Iterator[Tensor]:
    """Weights of convolutions with a group a channel."""
    for module in model.modules():
        if isinstance(module, _CONVOLUTIONS) and 1 < module.groups == module.in_channels:
            yield from module.parameters()  # not `weight`, which a parametrization computes
