"""Random networks grown from hazards: whatever is cut equals two references, and the fuzzer notices what does not."""

import copy
from collections import Counter

import pytest
import torch

import torchbonsai as tb
from torchbonsai.core.errors import BudgetError, VerificationError
from torchbonsai.graph.rules import registry
from torchbonsai.testing.fuzz import Tally, fuzz
from torchbonsai.testing.hazards import HAZARDS
from torchbonsai.testing.networks import Spec, cut, grow, pictures
from torchbonsai.testing.surgery import reference_error

FLAGGED = {"ChannelAndSpatialAttention"}


def test_random_networks():
    """Fixed seed; a failure is shrunk and shown as the call that makes it again."""
    tally = Tally()
    fuzz(80, 20240601, tally)
    assert tally.networks >= 80
    assert tally.exact > 40
    assert tally.largest_error < 1e-9


@pytest.mark.parametrize("name", HAZARDS)
def test_every_hazard(name):
    """Between two convolutions; what becomes of it is what can."""
    fates = Counter()
    for seed in range(3):
        try:
            _, found = cut(Spec(6 + 2 * seed, ((name, seed, True),), False, seed), share=0.5, scope="uniform")
        except BudgetError:
            continue
        fates.update(found.values())
    assert fates["flagged" if name in FLAGGED else "removed"], f"{name}: {dict(fates)}"


def test_a_wrong_rule_is_noticed(monkeypatch):
    """`cumsum` along channels has the shape of its input; taken for pointwise it passes the proof, not the numbers."""
    monkeypatch.setattr(registry, "_cache", {})
    monkeypatch.setitem(registry.RULES, "aten::cumsum", registry.RULES["pointwise"])
    with pytest.raises(VerificationError, match="relative error"):
        cut(Spec(8, (("CumulativeSum", 0, True),), False, 0), share=0.5, scope="global")


@pytest.mark.parametrize("reference", ["poison", "hooks"])
def test_references_notice_a_wrong_network(reference):
    """The second references are no copies of the first: they see a wrong weight, and a wrong choice of channels."""
    spec = Spec(8, (("Residual", 0, True),), False, 0)
    network, x = grow(spec), pictures(spec)
    result = tb.prune(network, x, budget=tb.Budget(channels=0.5))
    assert reference_error(network, result.model, result.plan, x, reference) < 1e-12
    wrong = copy.deepcopy(result.model)
    with torch.no_grad():
        wrong.mixers[0][0].weight[0, 0] += 0.1
    assert reference_error(network, wrong, result.plan, x, reference) > 1e-4
    other = tb.prune(network, x, budget=tb.Budget(channels=0.5), criterion=tb.criteria.Random(1))
    assert reference_error(network, other.model, result.plan, x, reference) > 1e-4


def test_growing_is_repeatable():
    spec = Spec(5, (("Split", 3, True), ("SqueezeExcite", 4, False)), True, 9)
    state = torch.get_rng_state()
    a, b = grow(spec).state_dict(), grow(spec).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a[name], b[name]) for name in a)
