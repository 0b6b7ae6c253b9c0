"""The conformance suite of criteria: what any method of scoring channels must do, whoever wrote it."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchbonsai.core.errors import ConfigError, DataError, PruningError
from torchbonsai.criteria.base import NEEDS_DATA, Criterion, Loss, PruningWarning, Scores, ScoringContext
from torchbonsai.graph.channel_graph import FROZEN, ChannelGraph, Ints
from torchbonsai.pruning.prune import trace
from torchbonsai.selection.normalise import NORMALISERS
from torchbonsai.testing.toys import Toy, awkward, toys

KNOWN_NEEDS = NEEDS_DATA | {"weights"}
CLAIMS = frozenset({"equivariant", "unread lowest"})


def check_criterion(criterion: Criterion, on: Iterable[Toy] | None = None) -> None:
    """Hold `criterion` to the protocol on toy networks (or on your own).

    Checked: shapes, finite numbers; model, flags, gradients and random state as found; the same scores twice;
    reordered channels give reordered scores, and a channel that nobody reads scores lowest, where claimed; without
    calibration data a clear DataError where data is needed, and no complaint where it is not; on the toy networks also
    that it works with a loss of one's own, whose batches are dicts, or refuses it with a ConfigError. A network that it
    is not made for may be refused with a PruningError, which leaves it as found, too; not every network may.
    Raises AssertionError that says which of these fails on which network.
    """
    _check_declaration(criterion)
    refused: dict[str, PruningError] = {}
    held = list(networks().values() if on is None else on)
    for toy in held:
        name = type(toy.model).__name__
        no = _check_untouched(criterion, toy, name)
        if no is not None:
            refused[name] = no
            continue
        _check_repeatable(criterion, toy, name)
        _check_data(criterion, toy, name)
        if "equivariant" in claims_of(criterion):
            _check_equivariant(criterion, toy, name)
        if "unread lowest" in claims_of(criterion):
            _check_unread(criterion, toy, name)
    if on is None:
        _check_own_loss(criterion, networks()["chain"])
    assert len(refused) < len(held), f"every network was refused: {refused}"


def networks() -> dict[str, Toy]:
    """The toys with the graphs that a trace finds of them, and one whose channels are read in every way there is."""
    given = {name: (toy.model, toy.inputs) for name, toy in toys().items()}
    given["awkward"] = awkward(), given["chain"][1]
    return {name: Toy(model, trace(model, inputs), inputs) for name, (model, inputs) in given.items()}


def claims_of(criterion: Criterion) -> frozenset[str]:
    """What the criterion promises beyond the protocol; equivariance unless it says otherwise."""
    return frozenset(getattr(criterion, "claims", {"equivariant"}))


def calibration(toy: Toy) -> list[tuple[Tensor, Tensor]]:
    """Three batches of 4, 4 and 3 samples, like the toy's inputs, and targets of 3 classes."""
    generator = torch.Generator().manual_seed(7)
    sizes = (4, 4, 3)
    pictures = (torch.randn(n, *toy.inputs.shape[1:], generator=generator, dtype=toy.inputs.dtype) for n in sizes)
    return [(x, torch.randint(0, 3, (len(x),), generator=generator)) for x in pictures]


def reordered(model: nn.Module, graph: ChannelGraph, order: Ints) -> nn.Module:
    """A copy that computes the same, with atom `order[a]` of `model` in the place of atom a. order: (n_atoms,)."""
    copied = copy.deepcopy(model)
    tensors: dict[str, Tensor] = {**dict(copied.named_parameters()), **dict(copied.named_buffers())}
    for name, axes in graph.axes.items():
        if graph.aliases.get(name, name) != name:
            continue
        for axis, atoms in axes.items():
            wanted = np.where(atoms == FROZEN, FROZEN, order[atoms])
            source = np.empty(len(atoms), dtype=np.int64)
            source[np.argsort(wanted, kind="stable")] = np.argsort(atoms, kind="stable")
            tensor = tensors[name].data
            tensor.copy_(tensor.index_select(axis, torch.from_numpy(source)))
    return copied


def _scores(
    criterion: Criterion, toy: Toy, model: nn.Module | None = None, batches: Any = "given", loss: Loss | None = None
) -> Scores:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PruningWarning)
        data = calibration(toy) if batches == "given" else batches
        half = {group.name: -(-group.size // 2) for group in toy.graph.groups}
        context = ScoringContext(toy.graph, model or toy.model, data, loss, toy.inputs, lambda: half)
        return context.resolve(criterion)


def _check_declaration(criterion: Criterion) -> None:
    assert isinstance(criterion, Criterion), "a criterion has needs, normalise and score(context)"
    unknown = frozenset(criterion.needs) - KNOWN_NEEDS
    assert not unknown, f"needs {unknown} is none of {sorted(KNOWN_NEEDS)}"
    known = (*NORMALISERS, None)
    assert criterion.normalise in known, f"normalise must be one of {known}, not {criterion.normalise!r}"
    unknown = claims_of(criterion) - CLAIMS
    assert not unknown, f"claims {unknown} is none of {sorted(CLAIMS)}"


def _check_untouched(criterion: Criterion, toy: Toy, name: str) -> PruningError | None:
    """The refusal, if the criterion says that it is not made for this network."""
    model = copy.deepcopy(toy.model).train()
    next(model.children()).eval()  # a mixture of flags must come back as it was
    before, state = _portrait(model), _random_state()
    scores, refused = None, None
    try:
        scores = _scores(criterion, toy, model)
    except PruningError as error:
        if type(error) is not PruningError:  # a DataError and its like are never about the network
            raise
        refused = error
    assert _portrait(model) == before, f"{name}: the model was changed (weights, buffers, flags, gradients or hooks)"
    assert _random_state() == state, f"{name}: global random state was moved; use a generator of your own"
    assert scores is None or list(scores) == [g.name for g in toy.graph.groups]
    return refused


def _check_repeatable(criterion: Criterion, toy: Toy, name: str) -> None:
    first, second = _scores(criterion, toy), _scores(criterion, toy)
    for group, values in first.items():
        assert torch.equal(values, second[group]), f"{name}: two runs score group {group!r} differently"


def _check_data(criterion: Criterion, toy: Toy, name: str) -> None:
    """Without data: a DataError exactly where `needs` says that data is needed."""
    needs_data = bool(criterion.needs & NEEDS_DATA)
    nothing: tuple[list[Any] | None, ...] = (None, [])
    for batches in nothing:
        try:
            _scores(criterion, toy, batches=batches)
            refused = False
        except DataError:
            refused = True
        assert refused == needs_data, (
            f"{name}: with batches={batches} it {'needs data' if refused else 'needs none'}, "
            f"but its needs are {sorted(criterion.needs)}"
        )


def _check_own_loss(criterion: Criterion, toy: Toy) -> None:
    """A regression, on batches that its loss alone can read."""
    data = [{"pictures": x, "numbers": y[:, None] + torch.zeros(1, 3)} for x, y in calibration(toy)]

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return F.mse_loss(model(batch["pictures"]), batch["numbers"])

    try:
        _scores(criterion, toy, batches=data, loss=loss)
    except ConfigError:
        return  # a loss that it would ignore
    except Exception as error:
        if type(error) is PruningError:  # not made for this network
            return
        got = f"{type(error).__name__}: {error}"
        raise AssertionError(f"a loss of one's own on batches that are dicts must do, or be refused: {got}") from error


def _check_equivariant(criterion: Criterion, toy: Toy, name: str) -> None:
    generator = np.random.default_rng(3)
    order = np.concatenate([g.offset + generator.permutation(g.size) for g in toy.graph.groups])
    before = _scores(criterion, toy)
    after = _scores(criterion, toy, reordered(toy.model, toy.graph, order))
    for g in toy.graph.groups:
        expected = before[g.name][torch.from_numpy(order[g.offset : g.offset + g.size] - g.offset)]
        same = torch.allclose(after[g.name], expected, rtol=1e-4, atol=1e-7)
        assert same, f"{name}: channels of group {g.name!r} were reordered, and the scores did not follow"


def _check_unread(criterion: Criterion, toy: Toy, name: str) -> None:
    for group in toy.graph.groups:
        if not group.bound("consumes"):  # read by no weight, so none can be zeroed
            continue
        model, channel = copy.deepcopy(toy.model), group.size // 2
        tensors = dict(model.named_parameters())
        for binding in group.bound("consumes"):
            unread = torch.from_numpy(np.flatnonzero(binding.index == channel))
            tensors[binding.name].data.index_fill_(binding.axis, unread, 0)
        values = _scores(criterion, toy, model)[group.name]
        lowest = bool((values[channel] <= values).all()) and bool(values[channel] < values.max())
        assert lowest, f"{name}: channel {channel} of group {group.name!r} is read by nobody and does not score lowest"


def _portrait(model: nn.Module) -> dict[str, Any]:
    """Everything that a criterion must leave as it was, as comparable data."""
    tensors = (*model.named_parameters(), *model.named_buffers())
    parameters = dict(model.named_parameters())
    return {
        "values": {n: (id(t), t.dtype, t.detach().cpu().numpy().tobytes()) for n, t in tensors},
        "requires_grad": {n: p.requires_grad for n, p in parameters.items()},
        "gradients": {n: p.grad is None for n, p in parameters.items()},
        "training": {n: m.training for n, m in model.named_modules()},
        "hooks": {n: len(m._forward_hooks) + len(m._forward_pre_hooks) for n, m in model.named_modules()},
    }


def _random_state() -> tuple[bytes, str, str]:
    return torch.get_rng_state().numpy().tobytes(), repr(np.random.get_state()), repr(random.getstate())
