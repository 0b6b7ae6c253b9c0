"""Differentiable gates against finite differences of the masks' own mechanism, which knows nothing of autograd."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torchbonsai as tb
from torchbonsai.core.errors import PruningError
from torchbonsai.graph.forward import undisturbed
from torchbonsai.surgery.gated import GatedLoss
from torchbonsai.surgery.gates import gate_sites, run_gated, sites_of_pass
from torchbonsai.testing.toys import toys


class Awkward(nn.Module):
    """A transformed weight, a product of two activations, a write in place, and a buffer that every forward changes."""

    def __init__(self):
        super().__init__()
        self.stem, self.w = nn.Conv2d(3, 5, 3, padding=1), nn.Parameter(torch.empty(7, 5, 1, 1))
        self.bn, self.q, self.k = nn.BatchNorm2d(7), nn.Linear(7, 6), nn.Linear(7, 6)
        self.head = nn.Linear(16, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls.add_(1)
        x = F.gelu(self.stem(x))
        x = F.gelu(self.bn(F.conv2d(x, torch.tanh(self.w))))
        x.mul_(2)
        t = x.flatten(2).transpose(1, 2)
        return {"out": (self.head((self.q(t) @ self.k(t).transpose(1, 2)).mean(1)), None)}


def awkward():
    generator = torch.Generator().manual_seed(5)
    model = Awkward().double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) / 3)
    x = torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    return model.eval(), x, lambda out: out["out"][0].square().sum()


def smooth_toy():
    toy = toys()["residual"]
    return toy.model.double(), toy.inputs.double(), lambda out: out.square().sum()


def of(score):
    return lambda model, x: score(model(x))


CASES = {"awkward": awkward, "residual": smooth_toy}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_the_masks(case):
    model, x, score = CASES[case]()
    graph = tb.trace(model, x)
    assert bool(gate_sites(graph).activations) == (case == "awkward")
    with undisturbed(model):
        reference = sites_of_pass(graph, model, ((x,), {}))
    start = 0.5 + torch.rand(graph.n_atoms, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def by_masks(g):
        with torch.no_grad():
            return score(run_gated(reference, model, ((x,), {}), g)).item()

    g = start.clone().requires_grad_()
    loss = GatedLoss(graph, model, of(score))(x, g)
    assert loss.item() == pytest.approx(by_masks(start), rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, g)
    step = 1e-6
    for atom in range(graph.n_atoms):
        move = torch.zeros_like(start)
        move[atom] = step
        difference = (by_masks(start + move) - by_masks(start - move)) / (2 * step)
        assert gradient[atom].item() == pytest.approx(difference, rel=1e-5, abs=1e-7), atom
    assert gradient.abs().min() > 0


@pytest.mark.parametrize("case", CASES)
def test_second_derivatives_are_differences_of_the_first(case):
    model, x, score = CASES[case]()
    graph = tb.trace(model, x)
    one = torch.ones(graph.n_atoms, dtype=torch.float64)

    def gradient(at, graph_too=False):
        g = at.clone().requires_grad_()
        return g, torch.autograd.grad(GatedLoss(graph, model, of(score))(x, g), g, create_graph=graph_too)[0]

    z = torch.randn(graph.n_atoms, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    g, first = gradient(one, graph_too=True)
    (product,) = torch.autograd.grad(first, g, z)
    step = 1e-5
    difference = (gradient(one + step * z)[1] - gradient(one - step * z)[1]) / (2 * step)
    assert torch.allclose(product, difference, rtol=1e-4, atol=1e-6)


class Writes(nn.Module):
    """Into its input through a view, and into a buffer that it reads, before two activations are multiplied."""

    def __init__(self):
        super().__init__()
        self.q, self.k = nn.Linear(4, 6), nn.Linear(4, 6)
        self.register_buffer("calls", torch.ones(()))

    def forward(self, x):
        x.view(-1).mul_(2)
        self.calls += 1
        return self.q(x) @ (self.k(x) * self.calls).transpose(-1, -2)


def test_what_a_forward_writes_into_is_as_it_was_when_its_ops_run_again():
    model, x = Writes().double().eval(), torch.rand(3, 4, dtype=torch.float64)
    graph = tb.trace(model, x.clone())
    assert gate_sites(graph).activations
    g = torch.rand(graph.n_atoms, dtype=torch.float64)
    with undisturbed(model):
        plain = GatedLoss(graph, model, of(torch.sum))(x.clone(), g)
    loss = GatedLoss(graph, model, of(torch.sum))(x.clone(), g.requires_grad_())
    assert loss.item() == pytest.approx(plain.item(), rel=1e-12)
    assert model.calls == 1


def test_a_loss_may_call_the_model_twice():
    model, x, score = awkward()
    graph = tb.trace(model, x)
    g = torch.full((graph.n_atoms,), 0.7, dtype=torch.float64, requires_grad=True)
    (once,) = torch.autograd.grad(GatedLoss(graph, model, of(score))(x, g), g)
    (twice,) = torch.autograd.grad(GatedLoss(graph, model, lambda m, x: score(m(x)) + score(m(-x * -1)))(x, g), g)
    assert torch.allclose(twice, 2 * once)


def test_the_model_is_left_alone():
    model, x, score = awkward()
    graph = tb.trace(model, x)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    g = torch.ones(graph.n_atoms, dtype=torch.float64, requires_grad=True)
    GatedLoss(graph, model, of(score))(x, g).backward()
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_a_model_that_is_never_called():
    model, x, _ = awkward()
    g = torch.ones(18, dtype=torch.float64, requires_grad=True)
    with pytest.raises(PruningError, match="never ran"):
        GatedLoss(tb.trace(model, x), model, lambda m, x: m.stem(x).sum())(x, g)


def test_frozen_weights_take_the_kernels_that_they_took_in_the_trace():
    model, x, score = awkward()
    for p in (model.q.weight, model.stem.weight):
        p.requires_grad_(False)
    g = torch.ones(18, dtype=torch.float64, requires_grad=True)
    GatedLoss(tb.trace(model, x), model, of(score))(x, g).backward()
    assert g.grad.abs().min() > 0


def test_another_path_is_an_error():
    model, x, score = awkward()
    graph = tb.trace(model, x)
    g = torch.ones(18, dtype=torch.float64, requires_grad=True)
    model.head = nn.Identity()
    model.stem = nn.Sequential(nn.Identity(), nn.ReLU(), model.stem)
    for gates in (g, g.detach()):
        with pytest.raises(PruningError, match="as in the trace"):
            GatedLoss(graph, model, of(score))(x, gates)
    assert torch.is_grad_enabled()
    assert not model._forward_hooks


def test_a_pass_that_ends_before_its_last_gate_is_an_error():
    model, x, _ = awkward()
    graph, g = tb.trace(model, x), torch.ones(18, dtype=torch.float64, requires_grad=True)
    model.forward = model.stem.forward
    for gates in (g, g.detach()):
        with pytest.raises(PruningError, match=r"(?s)as in the trace.*the end, after"):
            GatedLoss(graph, model, lambda m, x: m(x).sum())(x, gates)
