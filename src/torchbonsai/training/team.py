"""Several processes that train one network, through Lightning Fabric (DDP): each takes its share of every batch.

    fabric = lightning_fabric.Fabric(accelerator="cuda", devices=4, strategy="ddp")
    fabric.launch()
    team = Team(fabric)
    small, plan = prune_together(team, model, example_inputs, budget=tb.Budget(macs=0.5))
    fit(small, splits.train, config, splits=splits, team=team)

Order and augmentation are drawn by every process alike, so that the batches, taken together, are those of one process,
and gradients are weighted by how many images each had. The statistics of batch norm are each process's own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torchbonsai.core import errors
from torchbonsai.core.config import config_hash
from torchbonsai.core.errors import ConfigError, PlanError, PruningError, message
from torchbonsai.pruning.prune import prune
from torchbonsai.surgery.apply import apply
from torchbonsai.surgery.plan import PruningPlan


class Team:
    """A launched `Fabric`, or None for one process alone."""

    def __init__(self, fabric: Any = None) -> None:
        """fabric: after `launch()`."""
        self.fabric = fabric
        self.rank: int = 0 if fabric is None else fabric.global_rank
        self.size: int = 1 if fabric is None else fabric.world_size

    @property
    def mine(self) -> slice:
        """Which of a batch's images this process takes; shares differ by one image at most."""
        return slice(self.rank, None, self.size)

    def weight(self, images: int, mine: int) -> float:
        """What a mean over `mine` images counts beside the others', so that DDP's average is the batch's mean."""
        return mine * self.size / images

    def wrapped(self, model: Any) -> Any:
        """`model`, whose gradients DDP will average; it shares its parameters."""
        return model if self.size == 1 else self.fabric.setup_module(model, move_to_device=False)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes."""
        return tensor if self.size == 1 else self.fabric.all_reduce(tensor, reduce_op="sum")

    def gathered(self, tensor: Tensor) -> Tensor:
        """(size, …): everyone's, on the CPU; all of one shape."""
        if self.size == 1:
            return tensor.cpu()[None]
        rows = torch.zeros(self.size, *tensor.shape, dtype=tensor.dtype, device=self.fabric.device)
        rows[self.rank] = tensor.to(rows.device)
        return self.sum(rows).cpu()

    def broadcast(self, value: Any) -> Any:
        """What process 0 has, for all; plain data."""
        return value if self.size == 1 else self.fabric.broadcast(value, src=0)

    def check(self, batch_size: int, compile: bool) -> None:
        """Raises ConfigError where a batch has no image for some process, or the step is to be compiled too."""
        if self.size > 1 and (batch_size < self.size or compile):
            raise ConfigError(
                message(
                    "several processes need a batch with an image for each, and an eager step",
                    f"{self.size} processes, batch_size={batch_size}, compile={compile}",
                    "a batch size meant for one process; the batch is shared out, not multiplied",
                    "give a larger batch_size, and leave `compile` out",
                )
            )


ALONE = Team()


def prune_together(team: Team, model: nn.Module, example_inputs: Any, **how: Any) -> tuple[nn.Module, PruningPlan]:
    """`tb.prune` by process 0; its plan is applied by all, each to its own `model`, which is left as it is.

    how: as `tb.prune` takes it; only process 0 reads it. Returns (small, plan), the same widths everywhere. An error of
    process 0 is raised by all. Raises PlanError where the processes end with different widths.
    """
    answer: dict[str, Any] = {}
    if team.rank == 0:
        try:
            answer = {"plan": prune(model, example_inputs, **how).plan.to_json()}
        except PruningError as error:
            answer = {"error": type(error).__name__, "text": str(error)}
    answer = team.broadcast(answer)
    if "error" in answer:
        raise getattr(errors, answer["error"], PruningError)(answer["text"])
    plan = PruningPlan.from_json(answer["plan"])
    small = apply(plan, model)
    check_widths(team, small)
    return small, plan


def check_widths(team: Team, model: nn.Module) -> None:
    """Raises PlanError unless all processes have tensors of the same names and shapes, by their checksums."""
    text = config_hash({name: list(t.shape) for name, t in model.state_dict().items()}, 32)
    device = next(model.parameters()).device
    mine = torch.tensor([int(text[i : i + 8], 16) for i in range(0, 32, 8)], dtype=torch.int64, device=device)
    # In integers: a third of a sum of three floats may be another float than each of them.
    different = team.sum((team.sum(mine.clone()) != mine * team.size).any().long())
    if different:
        raise PlanError(
            message(
                "all processes must have the same network after a cut",
                f"other shapes in {int(different)} of {team.size} processes, as far as their checksums differ",
                "processes that began with different models",
                "build the model from one seed, or load one file, in every process",
            )
        )
