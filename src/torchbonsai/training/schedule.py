"""How many steps a run has, and the learning rate at each."""

from __future__ import annotations

import math

from torchbonsai.training.config import TrainConfig


def steps_per_epoch(images: int, config: TrainConfig) -> int:
    """How many batches an epoch has: the fewest of at most `batch_size` images."""
    return math.ceil(images / config.batch_size)


def total_steps(images: int, config: TrainConfig) -> int:
    """ceil(epochs * steps an epoch); what floating point adds to a whole number is not counted as a step."""
    return max(1, math.ceil(config.epochs * steps_per_epoch(images, config) - 1e-6))


def learning_rate(step: int, images: int, config: TrainConfig) -> float:
    """The rate at `step` (0-based): a linear warm-up, then the cosine or step schedule over the whole run."""
    total = total_steps(images, config)
    warmup = min(config.warmup_epochs * steps_per_epoch(images, config), total / 2)
    if step < warmup:
        return config.lr * (step + 1) / (math.floor(warmup) + 1)
    if config.schedule == "step":
        return config.lr * config.gamma ** sum(step >= m * total for m in config.milestones)
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
