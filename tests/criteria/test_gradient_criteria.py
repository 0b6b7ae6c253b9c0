"""Taylor, SNIP and the Hessian's diagonal, worked out on paper.

h = relu(W1 x) = (1, 2) x and y = 3 g0 h0 − g1 h1, so for L = ½ y²: ∂L/∂g = y (3 h0, −h1) and H = v vᵀ, v = (3 h0, −h1).
At x = 1: y = 1, ∂L/∂g = (3, −2), v = (3, −2); at x = 2: y = 2, ∂L/∂g = (12, −8), v = (6, −4).
"""

import pytest
import torch
from by_hand import half_square, scored, two_layers
from torch import nn

import torchbonsai as tb
from torchbonsai.core.errors import ConfigError, PruningError
from torchbonsai.criteria import SNIP, GateSaliency, HessianDiagonal, PruningWarning, ScoringContext, SynFlow, Taylor

BATCHES = [torch.ones(1, 1), torch.full((3, 1), 2.0)]


def net():
    return two_layers([1.0, 2.0], [[3.0, -1.0]])


def test_taylor_is_the_weighted_mean_of_squares():
    assert scored(net(), Taylor(), BATCHES[:1], half_square) == [9, 4]
    assert scored(net(), Taylor(), BATCHES, half_square) == [(9 + 3 * 144) / 4, (4 + 3 * 64) / 4]


@pytest.mark.parametrize("train", [True, False])
def test_snip_is_the_share_of_the_mean_gradient(train):
    # mean gradient (3 + 3 * 12) / 4 = 9.75 and (−2 − 3 * 8) / 4 = −6.5
    assert scored(net(), SNIP(train=train), BATCHES, half_square) == pytest.approx([9.75 / 16.25, 6.5 / 16.25])


def test_the_exact_diagonal():
    found = scored(net(), HessianDiagonal(probes=None), BATCHES, half_square)
    assert found == pytest.approx([(4.5 + 3 * 18) / 4, (2 + 3 * 8) / 4])


def test_hutchinson_estimates_it():
    # One probe: z (v vᵀ z) / 2 is (1.5, −1) for equal signs and (7.5, 5) for different ones.
    ones = {tuple(scored(net(), HessianDiagonal(probes=1, seed=s), BATCHES[:1], half_square)) for s in range(8)}
    assert ones == {(1.5, -1.0), (7.5, 5.0)}
    many = scored(net(), HessianDiagonal(probes=4000), BATCHES[:1], half_square)
    assert many == pytest.approx([4.5, 2], abs=0.3)  # six standard errors of 3 / sqrt(4000)


def test_one_probe_is_exact_for_a_diagonal_hessian():
    model = two_layers([1.0, 2.0, 1.0], [[3.0, 0, 0], [0, -1.0, 0], [0, 0, 0.5]])
    assert scored(model, HessianDiagonal(probes=1), BATCHES[:1], half_square) == pytest.approx([4.5, 2, 0.125])


def test_both_readers_of_a_channel_count():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (
                nn.Linear(1, 2, bias=False),
                nn.Linear(2, 1, bias=False),
                nn.Linear(2, 1, bias=False),
            )

        def forward(self, x):
            h = self.a(x)
            return self.b(h) + self.c(h)

    model = Two().eval()
    with torch.no_grad():
        model.a.weight.fill_(1)
        model.b.weight.copy_(torch.tensor([[1.0, 2.0]]))
        model.c.weight.copy_(torch.tensor([[3.0, -2.0]]))
    # y = (1 + 3) g0 + (2 − 2) g1 = 4, ∂L/∂g = (16, 0)
    assert scored(model, Taylor(), BATCHES[:1], half_square) == [256, 0]


def test_snip_uses_batch_statistics_in_train_mode_only():
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.BatchNorm1d(2), nn.Linear(2, 1, bias=False)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [100.0]]))
        model[2].weight.copy_(torch.tensor([[1.0, 1.0]]))
    x = torch.tensor([[-1.0], [1.0]])
    loss = lambda model, batch: (model(batch) * batch).mean()  # noqa: E731
    graph = tb.trace(model, x)
    shares = [ScoringContext(graph, model, [x], loss).resolve(SNIP(train=t))["0"].tolist() for t in (True, False)]
    assert shares[0] == pytest.approx([0.5, 0.5], rel=1e-4)  # normalised, both channels are x
    assert shares[1] == pytest.approx([1 / 101, 100 / 101], rel=1e-4)  # running statistics 0 and 1: x and 100 x
    assert model[1].running_mean.tolist() == [0, 0]
    assert not model.training


@pytest.mark.parametrize(
    ("loss", "got"),
    [
        (lambda model, batch: model(batch).detach().sum(), "no gate changes"),
        (lambda model, batch: (model(batch).argmax(1) == 0).float().mean(), "no gate changes"),
        (lambda model, batch: model(batch), "shape"),
    ],
)
def test_a_loss_without_a_gradient_is_refused(loss, got):
    model = two_layers([1.0, 2.0], [[3.0, -1.0], [1.0, 1.0]])
    for criterion in (Taylor(), SNIP(), HessianDiagonal()):
        with pytest.raises(PruningError, match=f"(?s)differentiable scalar.*{got}"):
            scored(model, criterion, [torch.ones(2, 1)], loss)


class Backbone(nn.Module):
    """Its output's channels may leave, and only its caller reads them."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(1, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.b(self.a(x).relu())


@pytest.mark.parametrize(
    "criterion",
    [Taylor(), SNIP(), HessianDiagonal(probes=None), SynFlow(rounds=1), GateSaliency(epochs=2)],
    ids=lambda criterion: type(criterion).__name__,
)
def test_outputs_that_nobody_reads_score_the_mean_and_are_named(criterion):
    model, x = Backbone().eval(), torch.ones(2, 1)
    with torch.no_grad():
        model.a.weight.fill_(1)
        model.b.weight.copy_(torch.tensor([[1.0, 2, 3], [1, 1, 1]]))
    options = {"batches": [torch.ones(2, 1)], "loss": half_square, "budget": tb.Budget(channels=0.5)}
    with pytest.warns(PruningWarning, match="without a reader inside the network.*'b'"):
        result = tb.prune(model, x, criterion=criterion, prune_outputs=True, **options)
    assert result.scores["b"].tolist() == pytest.approx([result.scores["a"].mean().item()] * 2)


class Attention(nn.Module):
    """Fused attention, of which PyTorch has no second derivative."""

    def __init__(self):
        super().__init__()
        self.q, self.head = nn.Linear(1, 3), nn.Linear(3, 1)

    def forward(self, x):
        q = self.q(x[:, None, None, :].expand(-1, 1, 4, -1))
        return self.head(nn.functional.scaled_dot_product_attention(q, q, q)).flatten(1)


def test_fused_attention_has_first_derivatives_only():
    model, x = Attention().eval(), torch.ones(2, 1)
    graph = tb.trace(model, x)
    scores = ScoringContext(graph, model, [x], half_square).resolve(Taylor())
    assert sum(v.sum().item() for v in scores.values()) > 0
    with pytest.raises(PruningError, match="sdpa_kernel"):
        ScoringContext(graph, model, [x], half_square).resolve(HessianDiagonal())
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        ScoringContext(tb.trace(model, x), model, [x], half_square).resolve(HessianDiagonal())


@pytest.mark.parametrize("probes", [0, -1, True])
def test_bad_probes(probes):
    with pytest.raises(ConfigError, match="probes"):
        HessianDiagonal(probes=probes)
