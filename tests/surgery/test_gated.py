"""Gates on a whole loss: the same gates as in verification, and for ReLU networks the papers' gate after the norm."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from torchbonsai.core.errors import PruningError
from torchbonsai.graph.forward import undisturbed
from torchbonsai.graph.trace import observe
from torchbonsai.models import ModelConfig, build
from torchbonsai.surgery.gated import GatedLoss
from torchbonsai.surgery.gates import gate_sites, run_gated
from torchbonsai.testing.toys import toys


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def some(n, low=0.0, seed=0):
    return torch.rand(n, generator=torch.Generator().manual_seed(seed)) * (2 - low) + low


def test_it_is_the_loss_of_the_gated_network(mixed, x):
    graph, y = observe(mixed, x), torch.tensor([0, 1, 2, 3])
    g = some(graph.n_atoms)
    with undisturbed(mixed):
        gated = GatedLoss(graph, mixed, loss)((x, y), g)
        expected = F.cross_entropy(run_gated(gate_sites(graph), mixed, ((x,), {}), g), y)
    assert torch.equal(gated, expected)
    assert not torch.allclose(gated, loss(mixed, (x, y)))


class Multiplies(nn.Module):
    """Two activations are multiplied and a sum runs over channels: no weight of their own to hold a gate."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(5, 7), nn.Linear(5, 7), nn.Linear(4, 3)

    def forward(self, x):  # (b, 4, 5)
        scores = self.a(x).relu() @ self.b(x).transpose(1, 2)
        return self.head(scores.softmax(-1).mean(1) + self.a(x).relu().sum(-1))


def test_gates_on_activations_and_on_weights_are_found_in_a_loss():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x, y = Multiplies().eval(), torch.randn(6, 4, 5), torch.arange(6) % 3
    graph = observe(model, x)
    assert gate_sites(graph).activations
    g = some(graph.n_atoms)
    with undisturbed(model):
        twice = GatedLoss(graph, model, lambda m, batch: loss(m, batch) + loss(m, batch))((x, y), g)
        expected = F.cross_entropy(run_gated(gate_sites(graph), model, ((x,), {}), g), y)
    assert torch.allclose(twice, 2 * expected)
    assert not torch.allclose(expected, loss(model, (x, y)))


def after_the_norm(model, graph, g, inputs):
    """The papers' gate: x = relu(g * norm(conv(x))), through hooks on the first norm of every block."""
    spans = {k.name: g[k.offset : k.offset + k.size] for k in graph.groups if "layer" in k.name and "conv1" in k.name}
    norms = {f"{name.removesuffix('conv1')}bn1": gates for name, gates in spans.items()}
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda _m, _i, out, k=gates: out * k[:, None, None])
        for name, gates in norms.items()
    ]
    try:
        return model(inputs)
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize(("low", "same"), [(0.0, True), (-2.0, False)], ids=["g ≥ 0", "negative gates"])
def test_for_relu_networks_it_is_the_papers_gate_after_the_norm(low, same, pictures):
    model = build(ModelConfig("resnet20"), seed=0).eval()
    graph = observe(model, pictures)
    g = torch.ones(graph.n_atoms)
    for group in graph.groups:
        if "layer" in group.name and "conv1" in group.name:
            g[group.offset : group.offset + group.size] = some(group.size, low, group.offset)
    with undisturbed(model):
        ours = run_gated(gate_sites(graph), model, ((pictures,), {}), g)
        theirs = after_the_norm(model, graph, g, pictures)
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max())) is same


def test_where_a_depthwise_layer_follows_the_gate_after_the_norm_is_another():
    """MobileNet v2: behind the gated norm come a depthwise convolution and a second norm, whose shift stays."""
    toy = toys()["depthwise"]
    toy.model.dw.bias.data.fill_(1)
    g = torch.ones(toy.graph.n_atoms)
    g[2] = 0
    with undisturbed(toy.model):
        ours = run_gated(gate_sites(toy.graph), toy.model, ((toy.inputs,), {}), g)
        hook = toy.model.expand.register_forward_hook(lambda _m, _i, out: out * g[:6, None, None])
        theirs = toy.model(toy.inputs)
        hook.remove()
    assert not torch.allclose(ours, theirs, rtol=1e-3)


def test_a_graph_without_a_trace_is_gated_at_its_consumers():
    for toy in toys().values():
        traced, g = observe(toy.model, toy.inputs), some(toy.graph.n_atoms)
        assert [group.name for group in traced.groups] == [group.name for group in toy.graph.groups]
        with undisturbed(toy.model):
            by_hand = run_gated(gate_sites(toy.graph), toy.model, ((toy.inputs,), {}), g)
            found = run_gated(gate_sites(traced), toy.model, ((toy.inputs,), {}), g)
        assert torch.equal(by_hand, found)


def test_losses_that_cannot_be_gated_are_refused(mixed, x):
    graph, y = observe(mixed, x), torch.tensor([0, 1, 2, 3])
    ones = torch.ones(graph.n_atoms)
    with undisturbed(mixed), pytest.raises(PruningError, match="must call the model"):
        GatedLoss(graph, mixed, lambda model, batch: batch[0].mean())((x, y), ones)
    with undisturbed(mixed), pytest.raises(PruningError, match="scalar"):
        GatedLoss(graph, mixed, lambda model, batch: model(batch[0]))((x, y), ones)
    assert not mixed._forward_hooks
    assert not mixed._forward_pre_hooks
