"""Tracing and pruning leave the model bit-identical, and say why and where something is frozen."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torchbonsai as tb


class Busy(nn.Module):
    """Batch norm, dropout, hooks, a frozen layer, a part in eval mode, a counter and random numbers."""

    def __init__(self):
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b, self.drop, self.head = nn.Conv2d(8, 6, 1), nn.Dropout(0.3), nn.Linear(6, 2)
        self.register_buffer("calls", torch.zeros(()))
        self.cache = None

    def forward(self, x):
        self.calls += 1
        self.cache = x.shape
        x = F.relu(self.norm(self.a(x)))
        x = F.relu(self.drop(self.b(x)))
        if self.training:
            x = x + 0.01 * torch.randn(())
        return self.head(x.mean((2, 3)))


def busy():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Busy().train()
    model.norm.eval()
    model.b.weight.requires_grad_(False)
    model.a.weight.grad = torch.ones_like(model.a.weight)
    model.seen = []
    model.b.register_forward_hook(lambda module, args, out: None)
    return model


def portrait(model):
    tensors = (*model.named_parameters(), *model.named_buffers())
    return {
        "values": {n: (id(t), t.data_ptr(), t.stride(), t.detach().numpy().tobytes()) for n, t in tensors},
        "grads": {n: None if p.grad is None else p.grad.numpy().tobytes() for n, p in model.named_parameters()},
        "flags": {n: (m.training, len(m._forward_hooks), sorted(vars(m))) for n, m in model.named_modules()},
        "requires": {n: p.requires_grad for n, p in model.named_parameters()},
        "attributes": {n: [t for t in vars(p) if t] for n, p in tensors},
        "cache": model.cache,
        "random": (torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate()),
    }


@pytest.mark.parametrize(
    "use",
    [
        lambda model, x: tb.trace(model, x),
        lambda model, x: tb.prune(model, x, budget=tb.Budget(macs=0.5)),
        lambda model, x: tb.prune(model, x, budget=tb.Budget(macs=0.5), verify=False, criterion=tb.criteria.Random(1)),
        lambda model, x: tb.prune(
            model, x, budget=tb.Budget(macs=0.5), criterion=tb.criteria.APoZ(), batches=[(x, torch.zeros(4).long())]
        ),
    ],
    ids=["trace", "prune", "prune without verification", "prune on data"],
)
def test_the_given_model_is_left_bit_identical(use, pictures):
    model, x = busy(), torch.cat([pictures, pictures])
    held, before, grad_mode = x.clone(), portrait(model), torch.is_grad_enabled()
    use(model, x)
    assert portrait(model) == before
    assert torch.equal(x, held)
    assert torch.is_grad_enabled() == grad_mode


def test_an_error_in_the_forward_leaves_the_model_too(pictures):
    model = busy()
    before = portrait(model)
    with pytest.raises(tb.TraceError):
        tb.trace(model, pictures[:, :2])
    assert portrait(model) == before


def test_the_small_network_keeps_flags_and_grads_are_not_copied(pictures):
    model = busy()
    small = tb.prune(model, torch.cat([pictures, pictures]), budget=tb.Budget(macs=0.5)).model
    assert type(small) is Busy
    assert [m.training for m in small.modules()] == [m.training for m in model.modules()]
    assert {n: p.requires_grad for n, p in small.named_parameters()} == portrait(model)["requires"]
    assert all(p.grad is None for p in small.parameters())
    assert len(small.b._forward_hooks) == 1


def test_a_frozen_group_names_op_and_line(net, pictures):
    def forward(self, x):
        h = self.a(x)
        h = h.sort(1).values  # the line that is to blame
        return self.b(h)

    graph = tb.trace(net(forward, a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 2, 1)), pictures)
    frozen = next(f for f in graph.frozen if f.name == "a")
    assert frozen.source.op == "aten.sort.default"
    assert frozen.source.file == __file__
    assert frozen.source.code == "h = h.sort(1).values  # the line that is to blame"
    assert "a.weight axis 0" in frozen.members
    told = graph.explain()
    assert f"{__file__}:{frozen.source.line}" in told
    assert "aten.sort.default" in told


def test_two_traces_say_the_same(pictures):
    first, second = (tb.trace(busy(), torch.cat([pictures, pictures])) for _ in range(2))
    assert first.explain() == second.explain()
    assert first.axes.keys() == second.axes.keys()
    for name, axes in first.axes.items():
        assert all((atoms == second.axes[name][axis]).all() for axis, atoms in axes.items())


def test_copies_do_not_change_once_something_was_compiled(monkeypatch):
    """torch.compile wraps nn.Module.__setstate__ for the whole process; copies of hooked weights went wrong then."""
    guarded = nn.Module.__setstate__
    monkeypatch.setattr(nn.Module, "__setstate__", lambda self, state: guarded(self, state))
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    nn.utils.prune.random_unstructured(model[0], "weight", 0.5)
    assert tb.trace(model, torch.zeros(1, 3, 8, 8)).n_atoms == 8
