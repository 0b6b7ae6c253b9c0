"""APoZ by hand: counts, coupled places, ragged batches, groups without zeros."""

import pytest
import torch
from torch import nn

from torchbonsai.core.errors import DataError, PruningError
from torchbonsai.criteria import APoZ, PruningWarning, ScoringContext
from torchbonsai.graph.channel_graph import Product, Site
from torchbonsai.testing import toys

RELU = "aten.relu.default"


def zero_weights(model):
    for p in model.parameters():
        p.data.zero_()


def constant_chain():
    """conv1's channels are constant: the biases decide where ReLU is zero."""
    toy = toys.chain()
    zero_weights(toy.model)
    toy.model.bn1.weight.data.fill_(1)
    toy.model.conv1.bias.data.copy_(torch.tensor([1.0, -1.0, 2.0, 0.0, -3.0]))
    toy.model.conv2.bias.data.copy_(torch.tensor([1.0, 1, 1, 1, 1, 1, -1]))
    return toy


def test_constant_channels_by_hand():
    toy = constant_chain()
    scores = ScoringContext(toy.graph, toy.model, [(toy.inputs, None)]).resolve(APoZ())
    assert scores["conv1"].tolist() == [1, 0, 1, 0, 0]
    assert scores["conv2"].tolist() == [1, 1, 1, 1, 1, 1, 0]


def test_ragged_batches_weigh_by_their_length():
    # One channel that is ReLU(x): 3 of 4 samples positive, in batches of 3 (all positive) and 1 (not).
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1)).eval()
    model[0].weight.data.fill_(1)
    groups = {"0": (1, [("0.weight", 0, "produces", None), ("2.weight", 1, "consumes", None)])}
    atoms = torch.arange(1).numpy()
    graph = toys.graph_of(model, groups, (Product("mm", "0", 1, (atoms,)),), (Site(2, RELU, "1", 1, atoms),))
    batches = [torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[-1.0]])]
    assert ScoringContext(graph, model, batches).resolve(APoZ())["0"].tolist() == [0.75]


def test_coupled_group_is_the_mean_over_its_places():
    toy = toys.residual()
    zero_weights(toy.model)
    toy.model.stem.bias.data.copy_(torch.tensor([1.0, -1.0, 1.0, 1.0, 1.0]))
    toy.model.b.weight.data[2] = -2  # with a = 1 everywhere: 1 - 2 * 7 < 0 after the sum, at one of two places
    toy.model.a.bias.data.fill_(1)
    with pytest.warns(PruningWarning, match="never zero.*'a'"):
        scores = ScoringContext(toy.graph, toy.model, [toy.inputs]).resolve(APoZ())
    assert scores["stem"].tolist() == [1, 0, 0.5, 1, 1]
    assert scores["a"].tolist() == [1] * 7


def test_against_a_plain_count():
    toy = toys.residual(seed=3)
    batches = [(torch.randn(n, 3, 4, 4, generator=torch.Generator().manual_seed(n)), None) for n in (5, 2)]
    scores = ScoringContext(toy.graph, toy.model, batches).resolve(APoZ())
    x = torch.cat([x for x, _ in batches])
    with torch.no_grad():
        inner = torch.relu(toy.model.a(torch.relu(toy.model.stem(x))))
    assert torch.allclose(scores["a"], (inner != 0).double().mean((0, 2, 3)))
    assert 0 < scores["a"].min() < scores["a"].max() < 1


def test_group_without_a_site_is_named():
    toy = toys.depthwise()
    context = ScoringContext(toy.graph, toy.model, [toy.inputs])
    with pytest.warns(PruningWarning, match="no pointwise op shows them.*'project'"):
        scores = context.resolve(APoZ())
    assert scores["project"].tolist() == [1] * 5
    assert len(context.notes) == 1


def test_no_zeros_at_all_is_an_error():
    toy = constant_chain()
    toy.model.conv1.bias.data.fill_(1)
    toy.model.conv2.bias.data.fill_(1)
    with pytest.raises(PruningError, match="exactly zero"):
        ScoringContext(toy.graph, toy.model, [toy.inputs]).resolve(APoZ())


@pytest.mark.parametrize("batches", [None, [], iter(())])
def test_no_data(batches):
    toy = toys.chain()
    with pytest.raises(DataError, match="needs batches"):
        ScoringContext(toy.graph, toy.model, batches).resolve(APoZ())


def test_nan_in_batches():
    toy = toys.chain()
    bad = toy.inputs.clone()
    bad[1, 0, 2, 2] = float("nan")
    with pytest.raises(DataError, match="batch 1"):
        ScoringContext(toy.graph, toy.model, [(toy.inputs, None), (bad, None)]).resolve(APoZ())
