"""Every method by name, and what scoring with it is said to cost."""

import pytest
import torch

import torchbonsai as tb
from torchbonsai.core.errors import ConfigError
from torchbonsai.criteria import HessianDiagonal
from torchbonsai.study.methods import METHODS, criterion_of, method, passes_of
from torchbonsai.testing.toys import toys

PASSES = {"apoz": 1, "activation-mean": 1, "taylor": 3, "snip": 3, "hessian": 3 + 6 * 16}


@pytest.mark.parametrize("name", METHODS)
def test_by_name_through_prune(name):
    toy = toys()["chain"]
    criterion = criterion_of(method(name), seed=1)
    assert passes_of(criterion) == PASSES.get(name, 0)
    batches = [(toy.inputs, torch.tensor([0, 2]))] if name in PASSES else None
    with pytest.warns(tb.criteria.PruningWarning) if name == "bn-scale" else torch.no_grad():
        result = tb.prune(toy.model, toy.inputs, budget=tb.Budget(channels=0.5), criterion=criterion, batches=batches)
    assert result.cost.after.channels == 6
    assert result.verification.exact


def test_every_criterion_has_a_name():
    made = {type(make(0)).__name__ for make in METHODS.values()}
    ours = {n for n in tb.criteria.__all__ if hasattr(getattr(tb.criteria, n), "score")} - {"Criterion"}
    assert made <= ours
    assert ours - made <= {"LinearFilterEnsembles", "GateSaliency"}  # their cost is known after scoring only


def test_an_exact_hessian_cannot_be_counted_beforehand():
    with pytest.raises(ConfigError, match="counted"):
        passes_of(HessianDiagonal(probes=None))
