"""Every method by name, and what scoring with it is said to cost."""

import pytest
import torch

import torchbonsai as tb
from torchbonsai.study.methods import METHODS, Method, criterion_of, method, needs_images, passes_of
from torchbonsai.testing.toys import toys

PASSES = {"apoz": 1, "mean-activation": 1, "taylor": 3, "snip": 3, "hessian": 3 + 6 * 16, "lfe": None}
PASSES |= {"lfe-quick": None, "gates": 30}
LFE = {
    "lfe": {},
    "lfe-quick": {"masks_per_channel": 2, "precision": "bf16"},
    "lfe-accuracy": {"performance": "accuracy"},
    "lfe-agreement": {"performance": "agreement"},
    "lfe-agreement-quick": {"performance": "agreement", "masks_per_channel": 2, "precision": "bf16"},
    "lfe-global": {"drawn": "global"},
    "lfe-hadamard": {"design": "hadamard", "keep": 0.5},
    "lfe-independent": {"design": "independent"},
    "lfe-ridge": {"masks_per_channel": 1, "ridge": 1.0},
    "lfe-settled": {"cut": "budget"},
}
PASSES |= dict.fromkeys((*LFE, "leave-one-out", "leave-one-out-agreement"))


@pytest.mark.parametrize("name", METHODS)
def test_by_name_through_prune(name):
    toy = toys()["chain"]
    criterion = criterion_of(method(name), seed=1)
    assert needs_images(criterion) == (name in PASSES)
    batches = [(toy.inputs, torch.tensor([0, 2]))] if name in PASSES else None
    with pytest.warns(tb.criteria.PruningWarning) if name == "bn-scale" else torch.no_grad():
        result = tb.prune(toy.model, toy.inputs, budget=tb.Budget(channels=0.5), criterion=criterion, batches=batches)
    spent = PASSES.get(name, 0)
    assert passes_of(criterion, result.details) == (result.details["forward_passes"] if spent is None else spent)
    assert spent is not None or result.details["forward_passes"] > 12  # a mask a channel, at least
    assert result.cost.after.channels == 6
    assert result.verification.exact


def half_helps() -> torch.nn.Module:
    """Twenty channels of a hidden layer speak for the first class, twenty against it, each a little."""
    model = torch.nn.Sequential(torch.nn.Linear(8, 40), torch.nn.Sigmoid(), torch.nn.Linear(40, 2))
    torch.nn.init.zeros_(model[2].weight)
    with torch.no_grad():
        model[2].weight[0] = 0.05
        model[2].weight[0, 20:] *= -1
    return model


def test_kinds_of_lfe_are_what_their_names_say():
    assert {n for n in METHODS if n.startswith("lfe")} == set(LFE)
    torch.manual_seed(0)
    model, inputs = half_helps(), torch.randn(64, 8)
    graph, batches = tb.trace(model, inputs), [(inputs, torch.zeros(64, dtype=torch.long))]
    scores, passes = {}, {}
    for name, options in LFE.items():
        criterion = criterion_of(method(name), seed=1)
        assert criterion == tb.criteria.LinearFilterEnsembles(seed=1, **options)
        context = tb.criteria.ScoringContext(graph, model, batches, uniform=lambda: {"0": 20})
        scores[name], passes[name] = criterion.score(context)["0"], context.details["forward_passes"]
    for name in scores.keys() - {"lfe", "lfe-global"}:  # of one layer, both are the same
        assert not torch.equal(scores[name], scores["lfe"]), name
    assert passes["lfe"] == 4 * 40
    assert passes["lfe-quick"] == 2 * 40
    assert passes["lfe-ridge"] == 40
    assert passes["lfe-settled"] < passes["lfe"]
    assert set(scores["lfe-settled"].topk(20).indices.tolist()) == set(range(20))


def test_a_name_that_meant_another_criterion_has_another_identity():
    """Of ours, the others' results are those that they always were."""
    assert method("lfe-settled") != Method("lfe-settled")
    assert {name for name in METHODS if method(name).code} == {"lfe-settled"}


def test_every_criterion_has_a_name():
    made = {type(make(0)).__name__ for make in METHODS.values()}
    assert made == {n for n in tb.criteria.__all__ if hasattr(getattr(tb.criteria, n), "score")} - {"Criterion"}


def test_what_synflow_ran_on_the_example_is_counted():
    toy = toys()["chain"]
    result = tb.prune(
        toy.model, toy.inputs, budget=tb.Budget(channels=0.5), criterion=criterion_of(method("synflow"), 0)
    )
    assert result.details["example_passes"] == 303
