"""Geometric median, batch-norm scale and mean activation, worked out on paper."""

import pytest
import torch
from by_hand import scored, two_layers
from torch import nn

import torchbonsai as tb
from torchbonsai.core.errors import PruningError
from torchbonsai.criteria import ActivationMean, BatchNormScale, GeometricMedian, PruningWarning, ScoringContext
from torchbonsai.testing.criteria import networks


def test_distances_to_all_others():
    assert scored(two_layers([0.0, 1.0, 5.0], [[1.0] * 3]), GeometricMedian()) == pytest.approx([6, 5, 9])


def test_distances_run_over_all_producers_together():
    net = networks()["residual"]
    filters = torch.cat([net.model.stem.weight.flatten(1), net.model.b.weight.flatten(1)], 1).detach().double()
    expected = (filters[:, None] - filters[None]).norm(dim=2).sum(1)
    assert torch.allclose(ScoringContext(net.graph, net.model).resolve(GeometricMedian())["stem"], expected, rtol=1e-6)


def test_a_channel_made_at_several_places():
    class Heads(nn.Module):
        """Two heads of three: atom c is made by rows c and 3 + c, and its filters are both."""

        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(1, 6, bias=False), nn.Linear(3, 1)

        def forward(self, x):
            return self.b(self.a(x).reshape(len(x), 2, -1))

    model = Heads().eval()
    with torch.no_grad():
        model.a.weight.copy_(torch.tensor([0.0, 3.0, 0.0, 0.0, 4.0, 0.0])[:, None])
    assert scored(model, GeometricMedian(), inputs=torch.ones(5, 1)) == pytest.approx([5, 10, 5])


class Stream(nn.Module):
    """Two normed layers that write to one stream, and an inner layer without a norm."""

    def __init__(self):
        super().__init__()
        self.a, self.bn_a = nn.Linear(1, 3), nn.BatchNorm1d(3)
        self.inner, self.b, self.bn_b, self.head = nn.Linear(3, 2), nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)

    def forward(self, x):
        x = self.bn_a(self.a(x))
        return self.head(x + self.bn_b(self.b(self.inner(x).relu())))


def test_scales_are_averaged_over_norms_and_the_normless_score_the_mean():
    model = Stream().eval()
    with torch.no_grad():
        model.bn_a.weight.copy_(torch.tensor([1.0, -2.0, 0.0]))
        model.bn_b.weight.copy_(torch.tensor([3.0, 2.0, 0.0]))
    context = ScoringContext(tb.trace(model, torch.ones(2, 1)), model)
    with pytest.warns(PruningWarning, match="without a batch norm.*'inner'"):
        scores = context.resolve(BatchNormScale())
    assert scores["a"].tolist() == [2, 2, 0]
    assert scores["inner"].tolist() == pytest.approx([4 / 3, 4 / 3])


def test_no_batch_norm_at_all_is_an_error():
    with pytest.raises(PruningError, match="batch norm"):
        scored(two_layers([1.0, 2.0], [[1.0, 1.0]]), BatchNormScale())


def test_mean_of_absolute_activations():
    model = two_layers([1.0, -2.0, 3.0], [[1.0, 1.0, 1.0]])
    batches = [torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[-2.0]])]  # ReLU: 1 2 3 | 0 0 0, 4 | 3 6 9
    assert scored(model, ActivationMean(), batches) == [1.5, 1.0, 4.5]
    model = two_layers([1.0, -2.0, 3.0], [[1.0, 1.0, 1.0]], nn.Tanh)
    signed = scored(model, ActivationMean(), [torch.tensor([[1.0], [-1.0]])])
    assert signed == pytest.approx(torch.tensor([1.0, 2.0, 3.0]).tanh().tolist())


def test_an_unseen_group_scores_the_mean_of_the_others():
    net = networks()["depthwise"]
    context = ScoringContext(net.graph, net.model, [net.inputs])
    with pytest.warns(PruningWarning, match="without a pointwise op.*'project'"):
        scores = context.resolve(ActivationMean())
    assert scores["project"].tolist() == pytest.approx([scores["expand"].mean().item()] * 5)
