"""The loop in sight: everything that happens to the weights between the first batch and the last."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchbonsai.data.batches import augmented
from torchbonsai.data.splits import Splits, TrainSplit, ValSplit
from torchbonsai.training.accuracy import accuracy
from torchbonsai.training.checks import check_finite, check_kind, check_logits, check_number, trainable
from torchbonsai.training.config import TrainConfig
from torchbonsai.training.modes import autocast, flags_kept, laid_out, memory_format, seeded
from torchbonsai.training.report import EpochReport, History, StepReport
from torchbonsai.training.schedule import learning_rate, steps_per_epoch, total_steps
from torchbonsai.training.state import TrainState, identity_of

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
) -> History:
    """Train `model` in place on its own device; training flags and the global random state are left as found.

    An epoch is one permutation of the images, in batches of even size. splits: for the mean, the deviation and the
    number of classes. val: evaluated after every epoch. state: see `TrainState`; a filled one is gone on from.
    The model stays in the memory layout that `config.channels_last` says; gradients are cleared. Same weights,
    config, threads and versions give the same bits, broken off and gone on or not.
    Raises ConfigError for a model without trainable parameters or with another number of outputs, or a split of
    another kind; DataError for weights that are not finite, or a loss that becomes so.
    """
    check_kind(train, TrainSplit, "training")
    if val is not None:
        check_kind(val, ValSplit, "validation")
    check_finite(model)
    parameters = trainable(model)
    device = parameters[0].device
    on_device = train.to(device)
    total = total_steps(len(train), config)
    with flags_kept(model), seeded(config.seed, device):
        generator = torch.Generator().manual_seed(config.seed)
        model.to(memory_format=memory_format(config.channels_last))  # type: ignore[call-overload]
        optimizer = make_optimizer(parameters, config)
        reports: list[EpochReport] = []
        if state is not None:
            state.open(identity_of(model, config, train))
            reports = state.restore(model, optimizer, generator)
        while (done := sum(r.steps for r in reports)) < total:
            report = _epoch(model, optimizer, on_device, config, splits, generator, (len(reports) + 1, done), on_step)
            if val is not None:
                measured = accuracy(model, val, splits, precision=config.precision, channels_last=config.channels_last)
                report = report.evaluated(measured)
            reports.append(report)
            if state is not None:
                state.capture(model, optimizer, generator, reports)
            if on_epoch is not None:
                on_epoch(report)
        optimizer.zero_grad(set_to_none=True)
    return History(tuple(reports))


def _epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    train: TrainSplit,
    config: TrainConfig,
    splits: Splits,
    generator: torch.Generator,
    position: tuple[int, int],
    on_step: OnStep | None,
) -> EpochReport:
    """One pass, or what is left of the run where that is less. position: (epoch, 1-based; steps done before it)."""
    epoch, done = position
    start = time.perf_counter()
    model.train()
    device = train.x.device
    sums = torch.zeros(2, dtype=torch.float64, device=device)  # of losses, of right answers; read once, at the end
    total = total_steps(len(train), config)
    order = torch.randperm(len(train), generator=generator).to(device)
    chunks = order.tensor_split(steps_per_epoch(len(train), config))[: total - done]
    for step, chunk in enumerate(chunks, start=done):
        lr = learning_rate(step, len(train), config)
        for group in optimizer.param_groups:
            group["lr"] = lr
        inputs = laid_out(augmented(train.x[chunk], splits, config.augment, generator), config.channels_last)
        targets = train.y[chunk]
        with autocast(device, config.precision):
            logits = check_logits(model(inputs), len(chunk), splits.classes)
            loss = F.cross_entropy(logits, targets, label_smoothing=config.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        sums += _sums(logits.detach(), targets, loss.detach())
        if on_step is not None:
            on_step(StepReport(step + 1, total, lr, optimizer))
    samples = sum(len(c) for c in chunks)
    mean_loss, right = (sums / samples).tolist()
    check_number(mean_loss, f"the training loss of epoch {epoch}")
    return EpochReport(epoch, len(chunks), samples, lr, mean_loss, right, None, time.perf_counter() - start)


def _sums(logits: Tensor, targets: Tensor, loss: Tensor) -> Tensor:
    """(2,) the batch's summed loss, and how many it has right."""
    return torch.stack([loss.double() * len(targets), (logits.argmax(1) == targets).sum().double()])


def make_optimizer(parameters: list[nn.Parameter], config: TrainConfig) -> torch.optim.SGD:
    """SGD with momentum; weight decay on weights only, that is on parameters of two axes and more."""
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    filled = [g for g in groups if g["params"]]
    return torch.optim.SGD(filled, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)
