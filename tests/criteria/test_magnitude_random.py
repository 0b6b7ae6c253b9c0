"""Weight criteria and the random control."""

import pytest
import torch

from torchbonsai import criteria
from torchbonsai.core.errors import ConfigError, DataError, PruningError
from torchbonsai.criteria import Magnitude, Random, ScoringContext
from torchbonsai.criteria.reduce import norms
from torchbonsai.testing import toys


def fill(model, **values):
    with torch.no_grad():
        for name, value in values.items():
            model.get_parameter(name.replace("__", ".")).copy_(value)


def test_l1_and_l2_by_hand():
    toy = toys.chain()
    fill(toy.model, conv1__weight=torch.arange(5.0).reshape(5, 1, 1, 1).expand(5, 3, 3, 3) * -1)
    context = ScoringContext(toy.graph, toy.model)
    # 27 weights of -c a channel: L1 = 27 c, L2 = sqrt(27 c²)
    assert context.resolve(Magnitude(p=1))["conv1"].tolist() == [27.0 * c for c in range(5)]
    assert torch.allclose(context.resolve(Magnitude(p=2))["conv1"], torch.arange(5.0).double() * 27**0.5)


def test_coupled_producers_are_one_norm():
    toy = toys.residual()
    stem, b = toy.model.stem.weight.detach().double(), toy.model.b.weight.detach().double()
    expected = (stem.flatten(1).pow(2).sum(1) + b.flatten(1).pow(2).sum(1)).sqrt()
    scores = ScoringContext(toy.graph, toy.model).resolve(Magnitude())
    assert torch.allclose(scores["stem"], expected, rtol=1e-6)  # float32 weights are summed in float32


def test_biases_norms_depthwise_and_consumers_do_not_count():
    for toy in toys.toys().values():
        before = ScoringContext(toy.graph, toy.model).resolve(Magnitude())
        producers = {b.name for g in toy.graph.groups for b in g.bound("produces")}
        with torch.no_grad():
            for name, p in toy.model.named_parameters():
                if name not in producers:
                    p.fill_(99.0)
        after = ScoringContext(toy.graph, toy.model).resolve(Magnitude())
        assert all(torch.equal(before[g], after[g]) for g in before)


def test_consumer_norms_gather_all_places_of_a_channel():
    toy = toys.chain()
    weight = toy.model.fc.weight.detach().double()
    scores = norms(toy.graph, lambda name: toy.model.get_parameter(name).detach(), "consumes", 1)
    assert torch.allclose(scores["conv2"], weight.abs().sum(0).reshape(7, 4).sum(1))


def test_a_tied_weight_counts_once():
    toy = toys.chain()
    plain = norms(toy.graph, toy.model.get_parameter, "produces", 1)["conv1"].detach()
    (one, two) = toy.graph.groups
    tied = one.bindings[0].__class__("twin.weight", 0, "produces", one.bindings[0].index)
    groups = (one.__class__(one.name, one.size, one.offset, (*one.bindings, tied)), two)
    graph = toy.graph.__class__(**{**toy.graph.__dict__, "groups": groups, "aliases": {"twin.weight": "conv1.weight"}})
    assert torch.equal(norms(graph, toy.model.get_parameter, "produces", 1)["conv1"].detach(), plain)


def test_half_precision_does_not_overflow():
    toy = toys.chain()
    fill(toy.model, conv1__weight=torch.full((5, 3, 3, 3), 300.0))
    scores = ScoringContext(toy.graph, toy.model.half()).resolve(Magnitude())
    assert torch.allclose(scores["conv1"], torch.full((5,), 300.0 * 27**0.5, dtype=torch.float64))


@pytest.mark.parametrize("p", [0, -1, float("inf"), float("nan"), "2", True])
def test_bad_p(p):
    with pytest.raises(ConfigError, match="p must be"):
        Magnitude(p=p)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_in_weights_names_the_parameter(bad):
    toy = toys.chain()
    toy.model.conv2.weight.data[3, 1, 0, 0] = bad
    for criterion in (Magnitude(), Random()):
        with pytest.raises(DataError, match=r"'conv2\.weight'"):
            ScoringContext(toy.graph, toy.model).resolve(criterion)


def test_random_is_seeded_and_leaves_global_state():
    toy = toys.chain()
    context = ScoringContext(toy.graph, toy.model)
    state = torch.get_rng_state()
    first, again, other = (context.resolve(Random(seed=s)) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[g], again[g]) for g in first)
    assert not any(torch.equal(first[g], other[g]) for g in first)
    torch.rand(1)
    assert torch.equal(context.resolve(Random())["conv1"], first["conv1"])


def test_batches_are_not_read_where_they_are_not_needed():
    def endless():
        raise AssertionError("read")
        yield

    toy = toys.chain()
    assert set(ScoringContext(toy.graph, toy.model, endless()).resolve(Magnitude())) == {"conv1", "conv2"}


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ({}, "nothing"),
        ({"conv1": torch.ones(5)}, "conv2"),
        ({"conv1": torch.ones(4), "conv2": torch.ones(7)}, r"shape \(4,\)"),
        ({"conv1": torch.ones(5, dtype=torch.int64), "conv2": torch.ones(7)}, "int64"),
        ({"conv1": torch.ones(5) / 0, "conv2": torch.ones(7)}, "5 that are NaN or infinite"),
        ({"conv1": torch.ones(5), "conv2": torch.ones(7), "x": torch.ones(1)}, "also"),
        ({"conv1": [1.0] * 5, "conv2": torch.ones(7)}, "list"),
    ],
)
def test_scores_that_do_not_fit_are_refused(scores, words):
    class Wrong:
        needs, normalise = frozenset(), None

        def score(self, context):
            return scores

    toy = toys.chain()
    with pytest.raises(PruningError, match=words):
        ScoringContext(toy.graph, toy.model).resolve(Wrong())


@pytest.mark.parametrize("criterion", ["Random", "HessianDiagonal", "LinearFilterEnsembles", "GateSaliency"])
@pytest.mark.parametrize("seed", [-1, 0.5, True])
def test_a_seed_is_a_whole_number(criterion, seed):
    with pytest.raises(ConfigError, match="seed must be"):
        getattr(criteria, criterion)(seed=seed)
