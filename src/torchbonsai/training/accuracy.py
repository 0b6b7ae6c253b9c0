"""How many images of a split a model classifies right."""

from __future__ import annotations

import torch
from torch import nn

from torchbonsai.data.batches import normalise
from torchbonsai.data.splits import Split, Splits
from torchbonsai.training.checks import check_logits, check_number
from torchbonsai.training.config import Precision
from torchbonsai.training.modes import autocast, flags_kept, laid_out
from torchbonsai.training.team import ALONE, Team


def accuracy(
    model: nn.Module,
    split: Split,
    splits: Splits,
    *,
    batch_size: int | None = None,
    precision: Precision = "float32",
    channels_last: bool = False,
    team: Team = ALONE,
) -> float:
    """The share of `split` classified right, in [0, 1]: every image counts once, whatever the batches.

    batch_size: images a pass; by default 64 on a CPU, where larger batches leave its caches, and 500 elsewhere. team:
    other processes that take their shares of the images, ragged or not; all get the same figure.

    Eval mode; training flags are restored. Raises DataError where an output is not finite, ConfigError where the
    model has another number of outputs than there are classes.
    """
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    if batch_size is None:
        batch_size = 64 if device.type == "cpu" else 500
    with flags_kept(model), torch.inference_mode(), autocast(device, precision):
        model.eval()
        right = torch.zeros((), dtype=torch.int64, device=device)  # both are read once, at the end
        size = torch.zeros((), dtype=torch.float64, device=device)
        images, classes = split.x[team.mine], split.y[team.mine]
        for x, y in zip(images.split(batch_size), classes.split(batch_size), strict=True) if len(classes) else ():
            inputs = laid_out(normalise(x.to(device), splits), channels_last)
            logits = check_logits(model(inputs), len(y), splits.classes)
            size += logits.abs().sum(dtype=torch.float64)
            right += (logits.argmax(1) == y.to(device)).sum()
    check_number(team.sum(size).item(), "every output of the model")
    return int(team.sum(right)) / len(split)
