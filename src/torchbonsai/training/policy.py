"""What a network's weights are after a cut: kept, rewound to an earlier time, or made anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

from torch import nn

from torchbonsai.core.errors import ConfigError, message
from torchbonsai.cost.evaluate import device_of
from torchbonsai.models.build import ModelConfig, build, takes
from torchbonsai.surgery.apply import apply
from torchbonsai.surgery.plan import PruningPlan
from torchbonsai.training.modes import seeded

WeightPolicy = Literal["keep", "rewind", "reinitialise"]


def rewound(plan: PruningPlan, early: nn.Module) -> nn.Module:
    """The cut of `plan`, the whole one from the dense network, applied to that network's earlier weights.

    Raises PlanError where `early` is another network.
    """
    return apply(plan, early)


def reinitialise(small: nn.Module, model: ModelConfig, widths: Sequence[int], seed: int) -> str:
    """New weights for `small`, in place, drawn from `seed`; returns how they were made, for the record.

    By the factory of `model`, if it takes `widths` and these make a network of `small`'s shapes, else by every
    module's reset_parameters(), the network's own last; for the zoo both are one initialisation. widths: of the groups,
    in forward order. Raises ConfigError for a module with parameters and neither.
    """
    if takes(model.name, "widths"):
        made = _by_factory(small, replace(model, width=1.0, widths=tuple(widths)), seed)
        if made is not None:
            small.load_state_dict(made.state_dict(), strict=True)
            return f"factory at widths {', '.join(map(str, widths))}"
    reset_parameters(small, seed)
    return "reset_parameters() of every module"


def _by_factory(small: nn.Module, model: ModelConfig, seed: int) -> nn.Module | None:
    """The factory's network at these widths, if it has the tensors of `small`."""
    try:
        made = build(model, seed=seed)
    except ConfigError:  # its widths mean something else than one number a group
        return None
    shapes = {name: tensor.shape for name, tensor in small.state_dict().items()}
    return made if {name: tensor.shape for name, tensor in made.state_dict().items()} == shapes else None


def reset_parameters(module: nn.Module, seed: int) -> None:
    """New weights everywhere, drawn from `seed`: by each module's reset_parameters(), parts before the whole.

    So a network whose class has one, as those of the zoo with an initialisation of their own, has the last word. Drawn
    where the module lies, so a seed means other weights on a GPU than on the CPU. Raises ConfigError for a module that
    cannot make its own anew.
    """
    with seeded(seed, device_of(module)):
        for name, part in _parts_first(module):
            own = [*part.parameters(recurse=False), *part.buffers(recurse=False)]
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()
            elif own:
                raise ConfigError(
                    message(
                        "new weights at other widths need a factory with a `width`, or modules with reset_parameters()",
                        f"{name or 'the model'} ({type(part).__name__}), which has parameters and neither",
                        "a module with parameters of its own",
                        "give the factory a parameter `width`, or the module a reset_parameters()",
                    )
                )


def _parts_first(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """named_modules(), every module after its parts; those that have none in the same order."""
    waiting: list[tuple[str, nn.Module]] = []
    for name, part in module.named_modules():
        while waiting and not _within(name, waiting[-1][0]):
            yield waiting.pop()
        waiting.append((name, part))
    yield from reversed(waiting)


def _within(name: str, whole: str) -> bool:
    return not whole or name.startswith(f"{whole}.")
