"""Replaying what lies behind a gate gives what a full forward gives, or is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from torchbonsai.graph.forward import undisturbed
from torchbonsai.graph.trace import observe
from torchbonsai.models import ModelConfig, build
from torchbonsai.surgery.gated import GatedLoss
from torchbonsai.surgery.program import UnreplayableError
from torchbonsai.surgery.recorder import record
from torchbonsai.surgery.replay import Replay
from torchbonsai.surgery.rewrite import channels_last, fold_norms, half_precision

aten = torch.ops.aten


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


class Branches(nn.Module):
    """In place everywhere, a concatenation, a gate of one branch on another, a parallel branch, a flatten."""

    def __init__(self):
        super().__init__()
        self.stem, self.n1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.a, self.b = nn.Conv2d(6, 5, 3, padding=1, bias=False), nn.Conv2d(6, 7, 1)
        self.n2, self.squeeze = nn.BatchNorm2d(5), nn.Conv2d(12, 12, 1)
        self.fc, self.out = nn.Linear(12 * 9, 8), nn.Linear(8, 4)

    def forward(self, x):
        x = F.relu(self.n1(self.stem(x)), inplace=True)
        x = torch.cat([F.relu(self.n2(self.a(x)), inplace=True), self.b(x).add_(1)], 1)
        x *= self.squeeze(x.mean((2, 3), keepdim=True)).sigmoid()
        return self.out(F.relu(self.fc(F.max_pool2d(x, 2).flatten(1))))


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.attention = nn.Linear(5, 8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm, self.up, self.down, self.head = nn.LayerNorm(8), nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 4)

    def forward(self, x):  # (b, 3, 6, 6)
        x = self.embed(x.flatten(1, 2)[..., :5])
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(self.down(F.gelu(self.up(self.norm(x)))).mean(1))


def made(build_it):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_it().eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 1.5)
                module.weight.data.normal_()
                module.bias.data.normal_()
    return model


NETWORKS = {
    "branches": lambda: made(Branches),
    "attention": lambda: made(Attends),
    "resnet20": lambda: build(ModelConfig("resnet20", (3, 6, 6), 4), seed=0),
    "densenet": lambda: build(ModelConfig("densenet40", (3, 6, 6), 4, width=0.5), seed=0),
    "mobilenet": lambda: build(ModelConfig("mobilenet_v2", (3, 6, 6), 4, width=0.25), seed=0),
    "mlp": lambda: build(ModelConfig("mlp", (3, 6, 6), 4, widths=(11, 7)), seed=0),
}


def batch(x):
    return x, torch.arange(len(x)) % 4


def fast(program, half=False):
    fold_norms(program)
    channels_last(program)
    if half:
        half_precision(program, torch.bfloat16)
    return program


def copied(program):
    return replace(program, ops=list(program.ops), like=dict(program.like))


def drawn(graph, group, seed):
    """Gates that are one but in one group, half of which is off."""
    generator = torch.Generator().manual_seed(seed)
    g = torch.ones(graph.n_atoms)
    g[group.offset + torch.randperm(group.size, generator=generator)[: (group.size + 1) // 2]] = 0
    return g


def span(group):
    return np.arange(group.offset, group.offset + group.size)


@pytest.mark.parametrize("name", NETWORKS)
def test_equals_a_full_forward_for_every_group(name, x):
    model = NETWORKS[name]().double().eval()
    graph, data = observe(model, x.double()), batch(x.double())
    with undisturbed(model):
        gated = GatedLoss(graph, model, loss)
        program = record(gated, data)
        plain, quick = Replay(copied(program)), Replay(fast(copied(program)))
        groups = sorted(graph.groups, key=lambda g: plain.place(span(g)))
        assert groups
        dense, changed = gated(data, torch.ones(graph.n_atoms)).item(), 0
        for seed, group in enumerate([*groups, groups[0]]):  # the first again: a replay can go back
            g = drawn(graph, group, seed)
            whole = gated(data, g).item()
            changed += whole != dense
            for replay in (plain, quick):
                replay.focus(span(group))
                assert replay(g).item() == pytest.approx(whole, rel=1e-9), group.name
                assert replay(torch.ones(graph.n_atoms)).item() == pytest.approx(dense, rel=1e-9)
                replay.leave(forget=seed == 2)
        assert changed >= 0.9 * len(groups)


def test_all_groups_at_once(x):
    model = made(Branches).double()
    graph, data = observe(model, x.double()), batch(x.double())
    g = (torch.rand(graph.n_atoms, generator=torch.Generator().manual_seed(0)) > 0.3).double()
    with undisturbed(model):
        gated = GatedLoss(graph, model, loss)
        replay = Replay(fast(record(gated, data)))
        replay.focus(np.arange(graph.n_atoms))
        assert replay(g).item() == pytest.approx(gated(data, g).item(), rel=1e-9)


def test_only_what_lies_behind_the_gate_is_run(x):
    model = build(ModelConfig("resnet20", (3, 6, 6), 4), seed=0).eval()
    graph = observe(model, x)
    with undisturbed(model):
        program = fast(record(GatedLoss(graph, model, loss), batch(x)))
        assert not any("batch_norm" in str(op.func) for op in program.ops), "all norms are folded"
        replay, held, counts = Replay(program), [], []
        ordered = sorted(graph.groups, key=lambda g: replay.place(span(g)))
        for group in ordered:
            replay.focus(span(group))
            counts.append(sum(op.func is aten.convolution.default for op in replay.behind))
            held.append(sum(t.dim() == 4 for slot, t in replay.values.items() if slot not in program.constants))
    inner = [n for n, group in zip(counts, ordered, strict=True) if "layer" in group.name and "conv1" in group.name]
    assert inner == list(range(17, 0, -2)), "the second convolution of a block and all behind it"
    assert max(held) == 2, "the stream and the inner channels; what lies before a gate is dropped"


def test_half_precision_runs_contractions_in_it(x):
    model = build(ModelConfig("resnet20", (3, 6, 6), 4), seed=0).eval()
    graph, data = observe(model, x), batch(x)
    with undisturbed(model):
        gated = GatedLoss(graph, model, loss)
        replay = Replay(fast(record(gated, data), half=True))
        group = graph.groups[3]
        replay.focus(span(group))
        out = replay(drawn(graph, group, 0))
        held = {t.dtype for t in replay.given.values() if t.dim() == 4 and len(t) == len(x)}
    assert held == {torch.bfloat16}
    assert out.dtype == torch.float32
    whole = gated(data, drawn(graph, group, 0)).item()
    assert out.item() == pytest.approx(whole, rel=0.05)
    assert out.item() != pytest.approx(whole, rel=1e-6)


class Peculiar(nn.Module):
    """Does `twist` to activations behind a gate."""

    def __init__(self, twist):
        super().__init__()
        self.a, self.b, self.c, self.twist = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 4), twist
        self.register_buffer("calls", torch.zeros(6))

    def forward(self, x):
        return self.c(self.twist(self, self.b(self.a(x[:, 0, 0, :5]).relu())).relu())


def through_a_view(m, h):
    h[:, :3] = 0.5
    return h


def old_alias(m, h):
    flat = h.view(-1)
    h.mul_(2)
    return h + flat.view_as(h)


def peeks(m, h):
    return h * 2 if h.sum().item() > 0 else h


def writes_a_buffer(m, h):
    m.calls += 1
    return h + m.calls


def selects(m, h):
    return h + h[h > 0].sum()


@pytest.mark.parametrize(
    ("twist", "why"),
    [
        (lambda m, h: F.dropout(h, 0.5, True), "random"),
        (lambda m, h: h + torch.rand(6), "random"),
        (through_a_view, "another view"),
        (old_alias, "another view"),
        (peeks, "branch or a shape"),
        (selects, "branch or a shape"),
        (writes_a_buffer, "a buffer"),
        (lambda m, h: torch.add(h, 1, out=torch.empty_like(h)), "elsewhere"),
    ],
    ids=["dropout", "rand", "view", "alias", "item", "nonzero", "buffer", "out="],
)
def test_what_cannot_be_replayed_is_refused(twist, why, x):
    model = made(lambda: Peculiar(twist))
    graph = observe(made(lambda: Peculiar(lambda m, h: h)), x)
    with undisturbed(model), pytest.raises(UnreplayableError, match=why):
        record(GatedLoss(graph, model, loss), batch(x))


@pytest.mark.parametrize(
    "twist",
    [
        lambda m, h: h.view(-1).mul_(2).view(-1, 6),
        lambda m, h: h.masked_fill_(h > 1, 0.5).clamp_(-1, 1),
        lambda m, h: torch.empty_like(h).copy_(h),
        lambda m, h: h.add_(torch.ones(6, dtype=torch.float64)),
        lambda m, h: h * torch.tensor([1.0, 2, 3, 4, 5, 6]) + float(torch.ones(3).sum()),
    ],
)
def test_writes_in_place_that_nobody_else_sees(twist, x):
    model = made(lambda: Peculiar(twist))
    graph = observe(made(lambda: Peculiar(lambda m, h: h)), x)
    with undisturbed(model):
        gated = GatedLoss(graph, model, loss)
        replay = Replay(fast(record(gated, batch(x))))
        for seed, group in enumerate(graph.groups):
            replay.focus(span(group))
            g = drawn(graph, group, seed)
            for _ in range(2):  # a replay leaves what it was given as it was
                assert replay(g).item() == pytest.approx(gated(batch(x), g).item(), rel=1e-5)
