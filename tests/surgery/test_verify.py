"""Verification can fail: a wrong weight, a wrong channel, a wrong rule; and it does not fail for a blind branch."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torchbonsai as tb
from torchbonsai.graph.forward import as_examples
from torchbonsai.graph.rules import registry
from torchbonsai.graph.trace import observe
from torchbonsai.surgery import verify as verification
from torchbonsai.surgery.apply import apply
from torchbonsai.surgery.gates import gate_sites, run_gated
from torchbonsai.surgery.plan import make_plan
from torchbonsai.surgery.verify import verify


def cut_in_half(model, x):
    graph = observe(model, x)
    kept = torch.arange(graph.n_atoms).remainder(2).bool().numpy()
    plan = make_plan(graph, kept, model)
    return graph, kept, plan, apply(plan, model)


def test_the_right_network_passes(mixed, x):
    graph, kept, plan, small = cut_in_half(mixed, x)
    said = verify(graph, plan, kept, mixed, small, x)
    assert said.exact
    assert said.max_rel_error < 1e-12
    assert said.dtype == "float64"


@pytest.mark.parametrize("name", ["stem.weight", "norm.running_var", "deep.weight", "scale", "head.bias"])
def test_a_wrong_number_is_noticed(mixed, x, name):
    graph, kept, plan, small = cut_in_half(mixed, x)
    with torch.no_grad():
        small.state_dict()[name].flatten()[0] += 1e-3
    with pytest.raises(tb.VerificationError, match="relative error"):
        verify(graph, plan, kept, mixed, small, x)


def test_other_channels_than_planned_are_noticed(mixed, x):
    graph, kept, plan, small = cut_in_half(mixed, x)
    with pytest.raises(tb.VerificationError, match="relative error"):
        verify(graph, plan, ~kept, mixed, small, x)


def test_a_wrong_rule_is_noticed_by_the_numbers(monkeypatch, x):
    """The proof cannot see it: both passes take the same wrong rule."""

    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            return self.b(self.a(x).cumsum(1))

    right = tb.prune(Sums(), x, budget=tb.Budget(channels=0.5), criterion=tb.criteria.Random(0))
    assert right.verification.exact
    monkeypatch.setattr(registry, "_cache", {})
    monkeypatch.setitem(registry.RULES, "aten::cumsum", ("pointwise", registry.RULES["pointwise"][1]))
    with pytest.raises(tb.VerificationError, match="an op's rule is wrong"):
        tb.prune(Sums(), x, budget=tb.Budget(channels=0.5), criterion=tb.criteria.Random(0))
    silent = tb.prune(Sums(), x, budget=tb.Budget(channels=0.5), verify=False)
    assert (silent.verification.exact, silent.verification.max_rel_error) == (False, None)
    assert silent.verification.reason == "not compared"


def test_a_branch_at_zero_does_not_blind_it(x):
    """gamma = 0 hides the branch; on randomised constants a cut that is wrong behind it shows."""

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)
            self.gamma, self.head = nn.Parameter(torch.zeros(8, 1, 1)), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            x = self.a(x)
            return self.head(x + self.gamma * self.c(F.relu(self.b(x))))

    model = Scaled().eval()
    graph, kept, plan, _ = cut_in_half(model, x)
    wrong = copy.deepcopy(plan)
    wrong.kept["c.weight"][1] = 5 - wrong.kept["c.weight"][1].flip(0)
    small = apply(wrong, model)
    assert torch.allclose(small(x), apply(plan, model)(x)), "with gamma at zero nothing is seen"
    with pytest.raises(tb.VerificationError, match="relative error"):
        verify(graph, wrong, kept, model, small, x)


def test_masked_is_gates_of_zero_at_the_contractions(mixed, x):
    """By hand, with hooks: what inner makes is zeroed where back reads it."""
    graph = observe(mixed, x)
    group = graph.by_name["inner"]
    g = torch.ones(graph.n_atoms)
    g[group.offset : group.offset + 3] = 0
    masked = run_gated(gate_sites(graph), mixed, as_examples(x)[0], g)
    zeroed = torch.tensor([0.0] * 3 + [1.0] * 3).reshape(6, 1, 1)
    hook = mixed.back.register_forward_pre_hook(lambda module, args: (args[0] * zeroed,))
    assert torch.allclose(mixed(x), masked, rtol=1e-5, atol=1e-6)
    hook.remove()
    assert not torch.allclose(mixed(x), masked, rtol=1e-3)


def test_a_forward_in_float32_only_is_compared_in_float32(x):
    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            if x.dtype != torch.float32:
                raise TypeError("float32 only")
            return self.b(F.relu(self.a(x)))

    said = tb.prune(Single(), x, budget=tb.Budget(channels=0.5)).verification
    assert said.exact
    assert said.dtype == "float32"
    assert "float32" in str(said)


def test_outputs_that_are_no_floats_are_compared_too() -> None:
    class Classes(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = torch.nn.Linear(6, 8), torch.nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x).relu()).argmax(1)

    model, x = Classes(), torch.randn(64, 6)
    result = tb.prune(model, x, budget=tb.Budget(channels=0.5))
    assert result.verification.exact
    with torch.no_grad():
        result.model.b.bias += torch.tensor([9.0, 0, 0, 0, 0])
    kept = result.graph.keep(result.selection)
    with pytest.raises(tb.VerificationError):
        verify(result.graph, result.plan, kept, model, result.model, x)


def nearly_constant():
    """A norm that takes away 10,000 and divides by what varies beside it: four digits of rounding."""
    first, second, last = nn.Linear(6, 2000), nn.Linear(2000, 8), nn.Linear(8, 2)
    nn.init.uniform_(first.bias, 9999, 10001)
    return nn.Sequential(first, second, nn.BatchNorm1d(8), nn.ReLU(), last).eval()


def test_rounding_that_the_network_magnifies_is_no_difference(monkeypatch):
    """On statistics that are made for the comparison, what the last bit changes is allowed; nothing else is."""
    model, x = nearly_constant(), torch.randn(32, 6)
    monkeypatch.setitem(verification.TOLERANCE, torch.float64, 1e-14)
    graph, kept, plan, small = cut_in_half(model, x)
    before = copy.deepcopy(model.state_dict())
    found = verify(graph, plan, kept, model, small, x)
    assert found.exact
    assert 1e-14 < found.max_rel_error < 10 * found.rounding < 1e-8
    assert "the last bit changes the outputs by" in str(found)
    assert found == verify(graph, plan, kept, model, small, x)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    monkeypatch.setitem(verification.LOOSEST, torch.float64, 1e-14)
    with pytest.raises(tb.VerificationError, match="above 1e-14"):
        verify(graph, plan, kept, model, small, x)
    monkeypatch.setitem(verification.LOOSEST, torch.float64, 1e-6)
    wrong = copy.deepcopy(plan)
    wrong.kept["4.weight"][1] = 7 - wrong.kept["4.weight"][1].flip(0)
    with pytest.raises(tb.VerificationError, match="relative error"):
        verify(graph, wrong, kept, model, apply(wrong, model), x)
    monkeypatch.setattr(verification, "_rounding", lambda *_: 0.0)
    with pytest.raises(tb.VerificationError, match="above 1e-14"):
        verify(graph, plan, kept, model, small, x)


def test_what_is_inexact_is_told_with_randomised_constants_too(monkeypatch):
    """Large biases, all alike, hide the difference; other ones do not."""

    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm, self.b = nn.Linear(8, 12), nn.LayerNorm(12), nn.Linear(12, 2)
            nn.init.constant_(self.norm.bias, 1e3)

        def forward(self, x):
            return self.b(self.norm(self.a(x)))

    model, x = Normed().eval(), torch.randn(4, 8)
    told = tb.prune(model, x, budget=tb.Budget(channels=0.5)).verification.max_rel_error
    monkeypatch.setattr(verification, "randomise_constants", lambda graph, model: None)
    assert told > 10 * tb.prune(model, x, budget=tb.Budget(channels=0.5)).verification.max_rel_error > 1e-6
