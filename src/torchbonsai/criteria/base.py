"""The protocol of a criterion, and what it may use: graph, model, batches, loss, tensors, activations."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchbonsai.core.errors import ConfigError, DataError, PruningError, message
from torchbonsai.cost.evaluate import call, device_of, eval_mode
from torchbonsai.criteria.batches import check_finite, inputs_of, length_of, read_batches
from torchbonsai.criteria.watch import watch_forward
from torchbonsai.graph.channel_graph import ChannelGraph, Site
from torchbonsai.graph.trace import named_tensors

Loss = Callable[[nn.Module, Any], Tensor]
Scores = dict[str, Tensor]
"""Group name -> (n atoms,) float on the CPU, higher = keep."""

Normalise = Literal["mean", "sum", "size", "lamp"] | None
"""How a ranking across groups divides a group's scores; see `torchbonsai.selection.normalise`."""

NEEDS_DATA = frozenset({"activations", "gradients", "gates", "evaluations"})


class PruningWarning(UserWarning):
    """Something that a result depends on and that its reader should know."""


@runtime_checkable
class Criterion(Protocol):
    """Scores every channel of the whole model at once.

    needs: of {"weights", "activations", "gradients", "gates", "evaluations"}; all but the first need batches.
    normalise: how a ranking across groups divides a group's scores ("mean", "sum", "size", "lamp" or None).

    A criterion may also have `claims`, a frozenset of what `tb.testing.check_criterion` is to hold it to:
    "equivariant" (reordered channels, reordered scores; assumed where `claims` is missing) and "unread lowest" (a
    channel that nobody reads scores lowest in its group).
    Where its cost does not follow from its needs (one forward pass for activations, three for gradients), `score` sets
    `context.details["forward_passes"]`, how many forward passes a sample took, and `details["example_passes"]`, how
    many were made on the example inputs besides.
    """

    @property
    def needs(self) -> frozenset[str]: ...

    @property
    def normalise(self) -> Normalise: ...

    def score(self, context: ScoringContext) -> Scores:
        """{group: (n atoms,) float, CPU, higher = keep} for every group of `context.graph`."""
        ...


class ScoringContext:
    """What a criterion gets. `model` is in eval mode while `resolve` runs; weights, flags and random state stay.

    batches: an iterable of whatever `loss` eats, read once, in order, when first needed; tensors go to the model's
    device. loss: callable(model, batch) -> scalar, a mean over its batch; default: cross-entropy of model(inputs)
    against batch[1]. example_inputs: as `tb.prune` got them. uniform: makes what `uniform_widths` says of the budget.
    notes: what the criterion wants the reader to know. details: what it found out beside the scores, by name;
    `PruneResult.details` holds them.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        model: nn.Module,
        batches: Iterable[Any] | None = None,
        loss: Loss | None = None,
        example_inputs: Any = None,
        uniform: Callable[[], Mapping[str, int]] | None = None,
    ) -> None:
        self.graph = graph
        self.model = model
        self.example_inputs = example_inputs
        self.notes: list[str] = []
        self.details: dict[str, Any] = {}
        self._given = batches
        self._loss = loss
        self._uniform = uniform

    @cached_property
    def batches(self) -> list[Any] | None:
        """All batches on the model's device, or None where none were given. Raises DataError for NaN or infinity."""
        return None if self._given is None else read_batches(self._given, device_of(self.model))

    def data(self) -> list[Any]:
        """The batches of a criterion that cannot do without. Raises DataError where there are none."""
        if not self.batches:
            raise no_batches("none" if self.batches is None else "an iterable without a batch")
        return self.batches

    @cached_property
    def uniform_widths(self) -> Mapping[str, int]:
        """{group: channels} that the budget leaves of every group at one share of all, before anything is scored.

        What scope="uniform" keeps, and a first guess at the widths of a ranking over groups, which scores decide.
        Raises ConfigError where no budget is known that says how much stays.
        """
        if self._uniform is None:
            raise _no_widths()
        return self._uniform()

    @property
    def has_own_loss(self) -> bool:
        """Whether `loss` is one that the user gave."""
        return self._loss is not None

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The loss given, else the cross-entropy of `model` on the batch; a scalar, a mean over the batch.

        Raises DataError for batches without targets, for outputs that are no (n, classes, …) tensor, and, on a CPU, for
        classes that the model has no output for.
        """
        if self._loss is not None:
            return self._loss(model, batch)
        if not isinstance(batch, tuple | list) or len(batch) < 2:
            raise _no_targets(batch)
        outputs, classes = call(model, batch[0]), batch[1]
        if not (isinstance(outputs, Tensor) and outputs.is_floating_point() and outputs.ndim > 1):
            raise _no_classes(outputs)
        try:
            return F.cross_entropy(outputs, classes)
        except IndexError as error:  # a CPU's; looking first would be a wait for the device at every pass on a GPU
            raise _no_such_class(outputs.shape[1], classes) from error

    def inputs_of(self, batch: Any) -> Any:
        """The inputs in a batch: a Tensor or a dict is the inputs, of anything else its first entry."""
        return inputs_of(batch)

    def length_of(self, batch: Any) -> int:
        """How many samples a batch holds: the weight of its mean."""
        return length_of(batch)

    def tensor(self, name: str) -> Tensor:
        """The parameter or buffer of that name, detached."""
        return self._tensors[name].detach()

    def note(self, text: str) -> None:
        """Tell the reader of the result: kept in `notes`, and warned about as a `PruningWarning`."""
        self.notes.append(text)
        warnings.warn(text, PruningWarning, stacklevel=2)

    def watch(self, callback: Callable[[Site, Tensor], None]) -> None:
        """Run every batch forward without gradients and call `callback(site, output)` at each of `graph.sites`.

        The forward is `loss(model, batch)` if a loss was given, else the model on `inputs_of(batch)`. Raises DataError
        without batches, PruningError where a batch takes another path through the model than the trace did.
        """
        with torch.no_grad(), eval_mode(self.model):
            for batch in self.data():
                watch_forward(self.model, self.graph.sites, callback, partial(self._forward, batch))

    def resolve(self, criterion: Criterion) -> Scores:
        """`criterion`'s scores in the graph's order, checked.

        Raises DataError for NaN or infinity in a parameter (or NaN in a buffer), or for missing batches; PruningError
        for a model on the meta device where weights are needed, and where a group has no score or not one finite number
        an atom.
        """
        if criterion.needs and any(tensor.is_meta for tensor in self._tensors.values()):
            raise _without_values(criterion)
        for name, tensor in self._tensors.items():
            check_finite(name, tensor, infinity_too=name in self.graph.parameters)
        if criterion.needs & NEEDS_DATA:
            self.data()
        with eval_mode(self.model):
            scores = criterion.score(self)
        unknown = sorted(set(scores) - set(self.graph.by_name))
        if unknown:
            raise _misfit(criterion, f"scores of the graph's {len(self.graph.groups)} groups", f"also {unknown}")
        return {g.name: _checked(criterion, g.name, g.size, scores.get(g.name)) for g in self.graph.groups}

    def _forward(self, batch: Any) -> object:
        return call(self.model, self.inputs_of(batch)) if self._loss is None else self._loss(self.model, batch)

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        return dict(named_tensors(self.model))


def _checked(criterion: Criterion, group: str, size: int, values: Tensor | None) -> Tensor:
    must = f"group {group!r} needs a float tensor of shape ({size},), all finite"
    if not isinstance(values, Tensor):
        raise _misfit(criterion, must, "nothing" if values is None else type(values).__name__)
    if tuple(values.shape) != (size,) or not values.is_floating_point():
        raise _misfit(criterion, must, f"{values.dtype} of shape {tuple(values.shape)}")
    values = values.detach().cpu()
    if not bool(values.isfinite().all()):
        raise _misfit(criterion, must, f"{int((~values.isfinite()).sum())} that are NaN or infinite")
    return values


def _misfit(criterion: Criterion, must: str, got: str) -> PruningError:
    cause = "a criterion that looks at modules instead of bindings, or divides by zero"
    way_out = "try it with tb.testing.check_criterion"
    return PruningError(message(f"{type(criterion).__name__}: {must}", got, cause, way_out))


def _without_values(criterion: Criterion) -> PruningError:
    return PruningError(
        message(
            f"{type(criterion).__name__} needs the values of the weights",
            "a model on the meta device, which has shapes only",
            "the model was built under torch.device('meta') to save memory",
            "pass criterion=tb.criteria.Random() where only the widths matter, or load the weights first",
        )
    )


def no_batches(got: str) -> DataError:
    """The error for a criterion that needs data and has none."""
    return DataError(
        message(
            "this criterion needs batches",
            got,
            "batches=None, an exhausted generator, or a loader with drop_last on too few samples",
            "pass batches=, an iterable of (inputs, targets)",
        )
    )


def _no_widths() -> ConfigError:
    return ConfigError(
        message(
            "this criterion needs a budget that says how much stays",
            "none",
            "a ScoringContext of one's own, or a budget of zeros= or outliers=, whose widths are known afterwards",
            "score in tb.prune with another budget, or give the criterion a share of its own (cut=0.5)",
        )
    )


def form_of(value: Any) -> str:
    """What a value is, for messages."""
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _no_classes(outputs: Any) -> DataError:
    return DataError(
        message(
            "the default loss needs a model whose output is a float tensor (n, classes, …)",
            form_of(outputs),
            "a model that returns a dict, a tuple or one number an image",
            "pass loss=, a callable(model, batch) that returns a scalar",
        )
    )


def _no_such_class(outputs: int, classes: Tensor) -> DataError:
    lowest, highest = int(classes.min()), int(classes.max())
    return DataError(
        message(
            f"the default loss needs classes of 0 to {outputs - 1}, one an output",
            f"classes {lowest} to {highest}",
            "data of another number of classes than the model's, classes counted from 1, or -1 for none",
            "use data that the model was made for, or pass loss=",
        )
    )


def _no_targets(batch: Any) -> DataError:
    return DataError(
        message(
            "the default loss needs batches of (inputs, targets)",
            type(batch).__name__,
            "a loader that gives inputs only, or dicts",
            "pass loss=, a callable(model, batch) that returns a scalar",
        )
    )
