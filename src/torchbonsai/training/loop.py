"""The loop in sight: everything that happens to the weights between the first batch and the last."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchbonsai.data.batches import augmented, normalise
from torchbonsai.data.splits import Split, Splits, TrainSplit, ValSplit
from torchbonsai.training.checks import check_finite, check_logits, check_loss, trainable
from torchbonsai.training.config import Precision, TrainConfig
from torchbonsai.training.report import EpochReport, History, StepReport
from torchbonsai.training.schedule import learning_rate, steps_per_epoch, total_steps
from torchbonsai.training.state import TrainState, identity_of


def fit(
    model: nn.Module,
    train: TrainSplit,
    config: TrainConfig,
    *,
    splits: Splits,
    val: ValSplit | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    state: TrainState | None = None,
) -> History:
    """Train `model` in place on its own device; training flags and the global random state are left as found.

    An epoch is one permutation of the images, in batches of even size. splits: for the mean, the deviation and the
    number of classes. val: evaluated after every epoch. state: see `TrainState`; a filled one is gone on from.
    Same weights, config, threads and versions give the same bits, broken off and gone on or not.
    Raises ConfigError for a model without trainable parameters or with another number of outputs, DataError for
    weights that are not finite or a loss that becomes so.
    """
    check_finite(model)
    parameters = trainable(model)
    device = parameters[0].device
    x, y = train.x.to(device), train.y.to(device)
    flags = [(m, m.training) for m in model.modules()]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)  # for dropout; data order and augmentation have a generator of their own
        generator = torch.Generator().manual_seed(config.seed)
        model.to(memory_format=_memory_format(config.channels_last))
        optimizer = make_optimizer(parameters, config)
        identity = identity_of(model, config, len(y))
        if state is not None and state.tensors:
            state.restore(model, optimizer, generator, identity)
        reports = state.reports if state is not None else []
        step, total = sum(r.steps for r in reports), total_steps(len(y), config)
        while step < total:
            model.train()
            start, losses, correct, samples = time.perf_counter(), x.new_zeros((), dtype=torch.float64), 0, 0
            order = torch.randperm(len(y), generator=generator).to(device)
            chunks = order.tensor_split(steps_per_epoch(len(y), config))[: total - step]
            for chunk in chunks:
                lr = learning_rate(step, len(y), config)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                inputs = _laid_out(augmented(x[chunk], splits, config.augment, generator), config.channels_last)
                with _autocast(device, config.precision):
                    logits = model(inputs)
                    check_logits(logits, len(chunk), splits.classes)
                    loss = F.cross_entropy(logits, y[chunk], label_smoothing=config.label_smoothing)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                step += 1
                samples += len(chunk)
                losses += loss.detach() * len(chunk)
                correct += (logits.detach().argmax(1) == y[chunk]).sum()
                if on_step is not None:
                    on_step(StepReport(step, total, lr, optimizer))
            mean_loss = check_loss(losses.item() / samples, len(reports) + 1)
            seconds = time.perf_counter() - start
            measured = None if val is None else _val_accuracy(model, val, splits, config)
            report = EpochReport(
                len(reports) + 1, len(chunks), samples, lr, mean_loss, int(correct) / samples, measured, seconds
            )
            reports.append(report)
            if state is not None:
                state.capture(model, optimizer, generator, reports, identity)
            if on_epoch is not None:
                on_epoch(report)
    for module, flag in flags:
        module.training = flag
    return History(tuple(reports))


def make_optimizer(parameters: list[nn.Parameter], config: TrainConfig) -> torch.optim.SGD:
    """SGD with momentum; weight decay on weights only, that is on parameters of two axes and more."""
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    filled = [g for g in groups if g["params"]]
    return torch.optim.SGD(filled, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, foreach=True)


def accuracy(
    model: nn.Module,
    split: Split,
    splits: Splits,
    *,
    batch_size: int = 500,
    precision: Precision = "float32",
    channels_last: bool = False,
) -> float:
    """The share of `split` classified right, in [0, 1]: every image counts once, whatever the batches.

    Eval mode; training flags are restored. Raises DataError where an output is not finite.
    """
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    flags = [(m, m.training) for m in model.modules()]
    correct = 0
    try:
        model.eval()
        with torch.inference_mode(), _autocast(device, precision):
            for x, y in zip(split.x.split(batch_size), split.y.split(batch_size), strict=True):
                logits = model(_laid_out(normalise(x.to(device), splits), channels_last))
                check_logits(logits, len(y), splits.classes)
                check_loss(logits.float().abs().sum().item(), None)
                correct += int((logits.argmax(1) == y.to(device)).sum())
    finally:
        for module, flag in flags:
            module.training = flag
    return correct / len(split)


def _val_accuracy(model: nn.Module, val: ValSplit, splits: Splits, config: TrainConfig) -> float:
    return accuracy(model, val, splits, precision=config.precision, channels_last=config.channels_last)


def _autocast(device: torch.device, precision: Precision) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def _memory_format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def _laid_out(x: Tensor, channels_last: bool) -> Tensor:
    return x.contiguous(memory_format=_memory_format(channels_last))
