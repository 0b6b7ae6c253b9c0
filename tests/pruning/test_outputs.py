"""prune_outputs=: for backbones, outputs lose channels, are compared on those that stay, and the plan says which."""

from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torchbonsai as tb
from torchbonsai.surgery.apply import apply
from torchbonsai.surgery.plan import PruningPlan, compose
from torchbonsai.testing import check_surgery

HALF = tb.Budget(channels=0.5)
RANDOM = tb.criteria.Random(seed=0)


class Levels(NamedTuple):
    fine: torch.Tensor
    coarse: torch.Tensor


class Backbone(nn.Module):
    """Two feature maps, the second made from the first."""

    def __init__(self, form=lambda fine, coarse: [fine, coarse]):
        super().__init__()
        self.stem, self.norm, self.deep = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 12, 3)
        self.form = form

    def forward(self, x):
        fine = F.relu(self.norm(self.stem(x)))
        return self.form(fine, F.relu(self.deep(fine)))


FORMS = {
    "list": lambda a, b: [a, b],
    "dict": lambda a, b: {"fine": a, "coarse": b},
    "named tuple": Levels,
}


@pytest.fixture
def x():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def backbone(form="list"):
    torch.manual_seed(0)
    return Backbone(FORMS[form]).eval()


def groups(graph):
    return {g.name: g.size for g in graph.groups}


def test_outputs_stay_whole_unless_asked(x):
    assert groups(tb.trace(backbone(), x)) == {}
    assert groups(tb.trace(backbone(), x, prune_outputs=True)) == {"stem": 8, "deep": 12}
    assert "outputs that lose channels: number 0, 1" in tb.trace(backbone(), x, prune_outputs=True).explain()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("which", "wanted"), [("fine", "stem"), ("coarse", "deep")])
def test_some_outputs_by_name_or_position(form, which, wanted, x):
    names = [0 if which == "fine" else 1] + ([which] if form != "list" else [])
    for name in names:
        graph = tb.trace(backbone(form), x, prune_outputs=name)
        assert list(groups(graph)) == [wanted]
        assert list(groups(tb.trace(backbone(form), x, prune_outputs=[name]))) == [wanted]
        assert any(f.reason == "it is an output of the model" for f in graph.frozen)


@pytest.mark.parametrize("form", FORMS)
def test_cuts_equal_both_references_on_the_channels_that_stay(form, x):
    for cut in check_surgery(backbone(form), x, shares=(0.5,), seeds=(0, 1), prune_outputs=True):
        fine, coarse = cut.plan.outputs
        assert torch.equal(fine[1], cut.plan.kept["stem.weight"][0])
        assert torch.equal(coarse[1], cut.plan.kept["deep.weight"][0])


def test_the_result_says_what_was_compared(x):
    result = tb.prune(backbone(), x, budget=HALF, criterion=RANDOM, scope="uniform", prune_outputs=True)
    assert result.verification.exact
    assert result.verification.outputs == "kept channels"
    assert "of the outputs the kept channels" in str(result.verification)
    assert [t.shape[1] for t in result.model(x)] == [4, 6]
    whole = tb.prune(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)), x, budget=HALF)
    assert whole.verification.outputs == "whole"
    assert whole.plan.outputs == ()
    assert "kept channels" not in str(whole.verification)


def test_a_wrong_output_is_noticed(x, monkeypatch):
    """The comparison takes the channels that the graph names, and looks at all of them."""
    from torchbonsai.surgery import verify

    right = verify.kept_positions
    monkeypatch.setattr(verify, "kept_positions", lambda *of: {a: p[::-1].copy() for a, p in right(*of).items()})
    with pytest.raises(tb.VerificationError):
        tb.prune(backbone(), x, budget=HALF, criterion=RANDOM, prune_outputs=True)


def test_flattened_outputs(x):
    """64 places a channel: positions that stay are those of the kept channels."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Flatten()).eval()
    (cut, *_) = check_surgery(model, x, shares=(0.5,), seeds=(0, 1), prune_outputs=True)
    kept = cut.plan.kept["0.weight"][0]
    assert torch.equal(cut.plan.outputs[0][1], (kept[:, None] * 64 + torch.arange(64)).flatten())


def test_an_output_that_names_channels_stays(x):
    model = Backbone(lambda fine, coarse: [fine, coarse.argmax(1)]).eval()
    assert groups(tb.trace(model, x, prune_outputs=True)) == {"stem": 8}


def test_zeros_never_narrow_an_output(x):
    model = backbone()
    with torch.no_grad():
        model.deep.weight[:, :3] = 0  # nobody reads these, but for the caller
        model.stem.weight[3:5], model.stem.bias[3:5], model.norm.bias[3:5] = 0, 0, 0
    result = tb.prune(model, x, budget=tb.Budget(zeros=True), prune_outputs=True)
    assert [t.shape[1] for t in result.model(x)] == [8, 12]


def test_an_output_that_is_not_there_is_an_error(x):
    with pytest.raises(tb.ConfigError, match="prune_outputs"):
        tb.trace(backbone("dict"), x, prune_outputs=["fine", "finest"])
    with pytest.raises(tb.ConfigError, match="returns 2"):
        tb.prune(backbone(), x, budget=HALF, prune_outputs=2)


def test_plans_of_outputs_round_trip_and_compose(x):
    dense = backbone()
    first = tb.prune(dense, x, budget=tb.Budget(channels=0.75), criterion=RANDOM, prune_outputs=True)
    again = PruningPlan.from_json(first.plan.to_json())
    assert all(torch.equal(a[1], b[1]) for a, b in zip(again.outputs, first.plan.outputs, strict=True))
    second = tb.prune(first.model, x, budget=tb.Budget(channels=0.5), criterion=RANDOM, prune_outputs=True)
    both = compose(first.plan, second.plan)
    for name, output in zip(("stem", "deep"), both.outputs, strict=True):
        assert torch.equal(output[1], both.kept[f"{name}.weight"][0])
    assert all(torch.equal(a, b) for a, b in zip(apply(both, dense)(x), second.model(x), strict=True))
