"""Leave-one-out: what it says is what removing the channel does; agreement needs no labels."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torchbonsai as tb
from torchbonsai.core.errors import ConfigError
from torchbonsai.criteria import LeaveOneOut, ScoringContext
from torchbonsai.models import ModelConfig, build


def classifier():
    """A small MLP and three ragged batches."""
    model = build(ModelConfig("mlp", (1, 4, 4), 3, widths=(9, 6)), seed=0)
    x = torch.randn(50, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = (x.flatten(1)[:, :3] * torch.tensor([1.0, 2, 3])).argmax(1)
    return model, [(x[:20], y[:20]), (x[20:40], y[20:40]), (x[40:], y[40:])]


def test_of_an_additive_loss_it_is_each_channels_part():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
        model[0].bias.zero_()
        model[2].weight.copy_(torch.tensor([[2.0, -3.0]]))
    x = torch.tensor([[1.0, 1.0], [2.0, -1.0], [3.0, 0.5]], dtype=torch.float64)  # relu: means 2 and 0.5
    context = ScoringContext(tb.trace(model, x), model, [(x[:2],), (x[2:],)], lambda m, batch: m(batch[0]).mean())
    scores = context.resolve(LeaveOneOut())  # the loss is 2 * 2 - 3 * 0.5
    assert scores["0"].tolist() == pytest.approx([-4.0, 1.5])


@pytest.mark.parametrize("performance", ["loss", "accuracy", "agreement"])
def test_it_is_what_cutting_the_channel_off_does(performance):
    model, batches = classifier()
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    graph = tb.trace(model, x)
    context = ScoringContext(graph, model, batches)
    scores = context.resolve(LeaveOneOut(performance=performance))

    def performed(network):
        logits = network(x).detach()
        if performance == "agreement":
            return -float(F.kl_div(logits.log_softmax(1), model(x).detach().softmax(1), reduction="batchmean"))
        return float(
            (logits.argmax(1) == y).float().mean() if performance == "accuracy" else -F.cross_entropy(logits, y)
        )

    for group in graph.groups:
        for channel in range(group.size):
            others = {group.name: [c for c in range(group.size) if c != channel]}
            without = tb.prune(model, x, budget=tb.Budget(widths={group.name: group.size - 1}), criterion=Only(others))
            expected = performed(model) - performed(without.model)
            assert float(scores[group.name][channel]) == pytest.approx(expected, abs=1e-6)
    extra = performance == "agreement"
    assert context.details["forward_passes"] == sum(g.size + 1 for g in graph.groups) + extra


class Only:
    """Keeps the channels that are named."""

    needs: frozenset[str] = frozenset()
    normalise = None

    def __init__(self, kept):
        self.kept = kept

    def score(self, context):
        return {
            g.name: torch.tensor([float(c in self.kept.get(g.name, range(g.size))) for c in range(g.size)])
            for g in context.graph.groups
        }


def test_agreement_needs_no_labels_and_is_never_below_zero():
    model, batches = classifier()
    graph = tb.trace(model, batches[0][0])
    agreement = LeaveOneOut(performance="agreement")
    scores = ScoringContext(graph, model, batches).resolve(agreement)
    without = ScoringContext(graph, model, [x for x, _ in batches]).resolve(agreement)
    for name, values in scores.items():
        assert torch.equal(values, without[name])
        assert float(values.min()) > -1e-7
        assert float(values.max()) > 1e-3


def test_options_that_are_none_are_refused():
    with pytest.raises(ConfigError, match="performance must be one of loss, accuracy, agreement"):
        LeaveOneOut(performance="acuracy")  # type: ignore[arg-type]
