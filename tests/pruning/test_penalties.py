"""Penalties: values on paper, gradients, and what they do to a training."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torchbonsai as tb
from torchbonsai.core.errors import ConfigError
from torchbonsai.criteria.reduce import norms
from torchbonsai.testing.toys import toys


def toy(name="chain"):
    found = toys()[name]
    return found.model, tb.trace(found.model, found.inputs)


def test_batch_norm_l1_by_hand():
    model, graph = toy()
    model.bn1.weight.data.copy_(torch.tensor([1.0, -2.0, 0.0, 0.5, 3.0]))
    penalty = tb.penalties.BatchNormL1(graph)
    value = penalty(model)
    assert value.item() == 6.5
    value.backward()
    assert model.bn1.weight.grad.tolist() == [1, -1, 0, 1, 1]
    assert all(p.grad is None for n, p in model.named_parameters() if n != "bn1.weight")


def test_scales_of_frozen_channels_are_left_out():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2), nn.BatchNorm1d(2))
    model[1].weight.data.fill_(2)
    assert tb.penalties.BatchNormL1(tb.trace(model, torch.randn(4, 2)))(model).item() == 6


def test_group_lasso_by_hand():
    model, graph = toy("residual")
    for p in model.parameters():
        p.data.fill_(1)
    model.b.weight.data[2] = 0
    # stream: 27 + 1 of the stem and 7 of b, one channel without the 7; inner: 45 + 1, seven times
    expected = 4 * 35 + 35**0.5 * 28**0.5 + 7 * 46
    assert tb.penalties.GroupLasso(graph)(model).item() == pytest.approx(expected)
    plain = tb.penalties.GroupLasso(graph, by_size=False)(model).item()
    assert plain == pytest.approx(4 * 35**0.5 + 28**0.5 + 7 * 46**0.5)


def test_roles_say_what_counts():
    model, graph = toy()
    for role in ("produces", "consumes"):
        lasso = tb.penalties.GroupLasso(graph, roles=(role,), by_size=False)
        expected = sum(v.sum() for v in norms(graph, lambda n: model.get_parameter(n).detach(), role, 2).values())
        assert lasso(model).item() == pytest.approx(expected.item(), rel=1e-5)


def test_buffers_are_no_weights():
    model, graph = toy()
    before = tb.penalties.GroupLasso(graph)(model).item()
    model.bn1.running_var.fill_(100)
    assert tb.penalties.GroupLasso(graph)(model).item() == before


@pytest.mark.parametrize("name", toys())
def test_gradients_are_right_and_finite_at_zero(name):
    model, graph = toy(name)
    model.double()
    with torch.no_grad():
        for b in graph.groups[0].bindings:
            if b.name in graph.parameters and b.role != "consumes":
                model.get_parameter(b.name).select(b.axis, 0).zero_()
    lasso = tb.penalties.GroupLasso(graph)
    growing = tb.penalties.GrowingL2(graph, {g.name: [False] * g.size for g in graph.groups}, grow=1.0, every=1)
    growing.step()
    for penalty in (lasso, growing):
        model.zero_grad()
        penalty(model).backward()
        for parameter in model.parameters():
            if parameter.grad is None:
                continue
            assert parameter.grad.isfinite().all()
            at = parameter.detach().abs().argmax()
            flat, step = parameter.data.view(-1), 1e-6
            old = flat[at].item()
            ends = []
            for value in (old + step, old - step):
                flat[at] = value
                ends.append(penalty(model).item())
            flat[at] = old
            assert parameter.grad.view(-1)[at].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4)


def test_growing_factor_and_what_it_leaves_alone():
    model, graph = toy("residual")
    keep = {"a": [True, True, False, True, True, True, False]}
    penalty = tb.penalties.GrowingL2(graph, keep, grow=0.25, every=2, ceiling=0.6)
    factors = []
    for _ in range(8):
        factors.append(penalty.factor)
        penalty.step()
    assert factors == [0, 0, 0.25, 0.25, 0.5, 0.5, 0.6, 0.6]
    penalty(model).backward()
    gone = model.a.weight.grad.flatten(1).abs().sum(1) > 0
    assert gone.tolist() == [not k for k in keep["a"]]
    assert torch.allclose(model.a.weight.grad[2], 0.6 * model.a.weight.data[2])
    assert not model.stem.weight.grad.any()
    again = tb.penalties.GrowingL2(graph, keep, grow=0.25, every=2, ceiling=0.6)
    again.load_state_dict(penalty.state_dict())
    assert again.factor == 0.6


def test_a_tied_parameter_counts_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.out = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False), nn.Linear(3, 1)
            self.inp = nn.Linear(2, 3, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.out(self.b(self.a(self.inp(x)).relu()).relu())

    model = Tied()
    graph = tb.trace(model, torch.randn(2, 2))
    for p in model.parameters():
        p.data.fill_(1)
    (group,) = graph.groups
    assert group.size == 3
    assert tb.penalties.GroupLasso(graph, roles=("produces",))(model).item() == pytest.approx(3 * 5)  # 2 + 3 weights


def train(model, penalty, factor, steps=150):
    """Fit y = x0 on noise-free data with five redundant hidden channels."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(256, 4, generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x)[:, 0], x[:, 0]) + factor * penalty(model)
        loss.backward()
        optimizer.step()
        if hasattr(penalty, "step"):
            penalty.step()
    return F.mse_loss(model(x)[:, 0], x[:, 0]).item()


def hidden(norm):
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), *([nn.BatchNorm1d(8)] if norm else []), nn.ReLU(), nn.Linear(8, 1))
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.copy_(torch.randn(p.shape, generator=generator) / 2)
            elif p.numel() == 8 and p is not getattr(model[1], "weight", None):
                p.zero_()
    return model, tb.trace(model, torch.randn(4, 4, generator=generator))


def sizes(model, graph):
    return norms(graph, lambda n: model.get_parameter(n).detach(), "produces", 2)["0"]


def test_group_lasso_drives_channels_out():
    plain, graph = hidden(norm=False)
    train(plain, lambda model: 0.0, 0.0)
    sparse, _ = hidden(norm=False)
    lasso = tb.penalties.GroupLasso(graph, roles=("produces", "follows", "consumes"))
    error = train(sparse, lasso, 0.03, steps=400)
    assert (sizes(plain, graph) > 0.1).sum() == 8
    assert (sizes(sparse, graph) > 0.1).sum() == 2  # relu(x0) and relu(-x0) are enough
    assert error < 0.02


def test_l1_on_scales_makes_them_small():
    plain, graph = hidden(norm=True)
    train(plain, lambda model: 0.0, 0.0)
    sparse, _ = hidden(norm=True)
    error = train(sparse, tb.penalties.BatchNormL1(graph), 0.1, steps=300)
    assert [(m[1].weight.abs() < 0.1).sum().item() for m in (plain, sparse)] == [0, 6]
    assert error < 0.02


def test_growing_regularisation_removes_the_chosen_without_a_jump():
    model, graph = hidden(norm=False)
    train(model, lambda model: 0.0, 0.0, steps=200)
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    result = tb.prune(model, x, budget=tb.Budget(channels=4))
    chosen = ~torch.from_numpy(result.selection["0"])
    jump = (result.model(x) - model(x)).abs().max().item()
    assert sizes(model, graph)[chosen].min() > 0.5
    penalty = tb.penalties.GrowingL2(graph, result.selection, grow=0.02, every=1, ceiling=5.0)
    error = train(model, penalty, 1.0, steps=300)
    assert sizes(model, graph)[chosen].max() < 0.02
    small = tb.prune(model, x, budget=tb.Budget(channels=4)).model
    assert (small(x) - model(x)).abs().max().item() < jump / 10
    assert error < 0.02


def test_copies_wrappers_and_compiled_steps():
    model, graph = toy()
    penalty = tb.penalties.GroupLasso(graph)
    expected = penalty(model).item()
    assert penalty(nn.DataParallel(model)).item() == expected
    compiled = torch.compile(model, backend="eager")
    assert penalty(compiled).item() == expected
    step = torch.compile(lambda: penalty(model), backend="eager", fullgraph=True)
    assert step().item() == expected
    assert penalty(model.half()).dtype == torch.float32


def test_a_penalty_of_the_model_before_it_was_cut_is_refused():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    graph = tb.trace(model, x)
    penalties = (
        tb.penalties.GroupLasso(graph),
        tb.penalties.BatchNormL1(graph),
        tb.penalties.GrowingL2(graph, {"0": [True] * 8}),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tb.Pruner(model, x, optimizer, budget=tb.Budget(channels=4)).step()
    assert model[0].out_features == 4
    for penalty in penalties:
        with pytest.raises(ConfigError, match=r"(?s)of shape \(4.*traced with \(8.*one that was pruned"):
            penalty(model)
    assert tb.penalties.GroupLasso(tb.trace(model, x))(model).item() > 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda g: tb.penalties.BatchNormL1(g), "batch norm"),
        (lambda g: tb.penalties.GroupLasso(g, roles=("makes",)), "roles"),
        (lambda g: tb.penalties.GrowingL2(g, {}, grow=0), "grow"),
        (lambda g: tb.penalties.GrowingL2(g, {}, every=0), "every"),
        (lambda g: tb.penalties.GroupLasso(g)(nn.Linear(2, 2)), "traced"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ConfigError, match=words):
        make(toy("residual")[1])
