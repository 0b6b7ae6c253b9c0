"""Every criterion passes the public suite, and the suite finds each fault it looks for."""

import random

import pytest
import torch

from torchbonsai.core.errors import PruningError
from torchbonsai.criteria import (
    SNIP,
    ActivationMean,
    APoZ,
    BatchNormScale,
    GateSaliency,
    GeometricMedian,
    HessianDiagonal,
    LeaveOneOut,
    LinearFilterEnsembles,
    Magnitude,
    Random,
    SynFlow,
    Taylor,
)
from torchbonsai.criteria.reduce import norms
from torchbonsai.testing import check_criterion
from torchbonsai.testing.criteria import calibration, reordered
from torchbonsai.testing.toys import toys

CRITERIA = (
    Magnitude(),
    Magnitude(p=1),
    Magnitude(normalise="lamp"),
    Random(),
    Random(seed=3),
    APoZ(),
    ActivationMean(),
    BatchNormScale(),
    GeometricMedian(),
    Taylor(),
    SNIP(),
    SNIP(train=False),
    SynFlow(rounds=1),
    SynFlow(rounds=4),
    GateSaliency(epochs=2),
    HessianDiagonal(probes=3),
    HessianDiagonal(probes=None),
    LeaveOneOut(),
    LeaveOneOut(performance="agreement"),
    LinearFilterEnsembles(),
    LinearFilterEnsembles(performance="accuracy"),
    LinearFilterEnsembles(performance="agreement"),
    LinearFilterEnsembles(cut="budget", masks_per_channel=8),
)


@pytest.mark.parametrize("criterion", CRITERIA, ids=repr)
def test_conforms(criterion):
    check_criterion(criterion)


def test_reordered_networks_compute_the_same():
    for toy in toys().values():
        order = torch.cat([g.offset + torch.arange(g.size).flip(0) for g in toy.graph.groups]).numpy()
        other = reordered(toy.model, toy.graph, order)
        assert not torch.equal(next(other.parameters()), next(toy.model.parameters()))
        assert torch.allclose(other(toy.inputs), toy.model(toy.inputs), atol=1e-6)


class Base:
    """A good criterion of twenty lines: the norm of the weights that read a channel."""

    needs = frozenset({"weights"})
    normalise = "mean"
    claims = frozenset({"equivariant", "unread lowest"})

    def score(self, context):
        return norms(context.graph, context.tensor, "consumes", 2)


class Unread(Magnitude):
    claims = frozenset({"unread lowest"})


class Position(Base):
    def score(self, context):
        return {g.name: torch.arange(float(g.size)) for g in context.graph.groups}


class GlobalSeed(Base):
    claims = frozenset()

    def score(self, context):
        return {g.name: torch.rand(g.size) for g in context.graph.groups}


class PythonSeed(Base):
    def score(self, context):
        random.random()
        return super().score(context)


class Writes(Base):
    def score(self, context):
        next(context.model.parameters()).data.mul_(2)
        return super().score(context)


class LeavesGradients(Base):
    def score(self, context):
        context.model(torch.zeros(1, 3, 4, 4)).sum().backward()
        return super().score(context)


class NeedsMore(Base):
    """Asks for data, which `resolve` then demands, and uses none: no fault."""

    needs = frozenset({"weights", "activations"})


class Undeclared(Base):
    """Watches activations without having asked for them."""

    def score(self, context):
        context.watch(lambda site, output: None)
        return super().score(context)


class OwnReading(Base):
    """Reads batches itself, so that a loss of one's own is passed over."""

    needs = frozenset({"weights", "activations"})

    def score(self, context):
        for inputs, _ in context.data():
            context.model(inputs)
        return super().score(context)


class Nonsense(Base):
    needs = frozenset({"nonsense"})


class Changing(Base):
    count = 0

    def score(self, context):
        Changing.count += 1
        return {name: values + Changing.count for name, values in super().score(context).items()}


class Refuses(Base):
    """Not made for any network."""

    def score(self, context):
        raise PruningError("no")


class RefusesAndWrites(Refuses):
    def score(self, context):
        next(context.model.parameters()).data.mul_(2)
        raise PruningError("no")


class RefusesSome(Magnitude):
    """Not made for a network without batch norm: no fault."""

    def score(self, context):
        if not any("running_mean" in name for name in context.graph.shapes):
            raise PruningError("no")
        return {g.name: torch.ones(g.size) for g in context.graph.groups}


@pytest.mark.parametrize(
    ("criterion", "words"),
    [
        (Refuses(), "every network was refused"),
        (RefusesAndWrites(), "was changed"),
        (Unread(), "does not score lowest"),
        (Position(), "did not follow"),
        (GlobalSeed(), "random state"),
        (PythonSeed(), "random state"),
        (Writes(), "was changed"),
        (LeavesGradients(), "was changed"),
        (OwnReading(), "a loss of one's own"),
        (Nonsense(), "none of"),
        (Undeclared(), "needs data"),
        (Changing(), "two runs"),
        (object(), "needs, normalise and score"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_faults_are_found(criterion, words):
    with pytest.raises(AssertionError, match=words):
        check_criterion(criterion)


def test_a_good_one_of_ones_own():
    check_criterion(Base())
    check_criterion(NeedsMore())
    check_criterion(RefusesSome())


def test_calibration_is_ragged():
    toy = toys()["chain"]
    assert [len(x) for x, _ in calibration(toy)] == [4, 4, 3]
