"""Every method by name, and what scoring with it is said to cost."""

import pytest
import torch

import torchbonsai as tb
from torchbonsai.study.methods import METHODS, criterion_of, method, needs_images, passes_of
from torchbonsai.testing.toys import toys

PASSES = {"apoz": 1, "mean-activation": 1, "taylor": 3, "snip": 3, "hessian": 3 + 6 * 16, "lfe": None}
PASSES |= {"lfe-quick": None, "gates": 30}


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


def test_every_criterion_has_a_name():
    made = {type(make(0)).__name__ for make in METHODS.values()}
    assert made == {n for n in tb.criteria.__all__ if hasattr(getattr(tb.criteria, n), "score")} - {"Criterion"}


def test_what_synflow_ran_on_the_example_is_counted():
    toy = toys()["chain"]
    result = tb.prune(
        toy.model, toy.inputs, budget=tb.Budget(channels=0.5), criterion=criterion_of(method("synflow"), 0)
    )
    assert result.details["example_passes"] == 303
