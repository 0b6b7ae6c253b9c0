"""Linear filter ensembles: exact on additive losses, replayed as naive, honest where it cannot replay."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torchbonsai as tb
from torchbonsai.core.errors import ConfigError, DataError, PruningError
from torchbonsai.criteria import LinearFilterEnsembles, PruningWarning, ScoringContext
from torchbonsai.criteria import masked_loss as masked_loss_file
from torchbonsai.criteria.linear_fit import LinearFit
from torchbonsai.models import ModelConfig, build

DESIGNS = [("independent", 0.7), ("antithetic", 0.8), ("balanced", 0.75), ("hadamard", 0.5)]


class Additive(nn.Module):
    """relu(x) of 7 and 5 channels, read by linear layers: every channel adds to the output what it adds."""

    def __init__(self, a=7, b=5):
        super().__init__()
        self.a, self.b = nn.Linear(4, a), nn.Linear(4, b)
        self.read_a, self.read_b = nn.Linear(a, 1), nn.Linear(b, 1)

    def forward(self, x):
        return self.read_a(self.a(x).relu()) + self.read_b(self.b(x).relu())


def output(model, batch):
    return model(batch[0]).mean()


def seeded(make, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def contributions(model, x):
    """What each channel adds to −mean(output): {group: (n,)}."""
    with torch.no_grad():
        a, b = (-(layer(x).relu().mean(0)) for layer in (model.a, model.b))
        return {"a": a * model.read_a.weight[0], "b": b * model.read_b.weight[0]}


@pytest.mark.parametrize(("design", "keep"), DESIGNS)
@pytest.mark.parametrize("drawn", ["layer", "global"])
def test_an_additive_loss_is_recovered_exactly(design, keep, drawn):
    model = seeded(Additive).double()
    x = seeded(lambda: torch.randn(20, 4, dtype=torch.float64))
    context = ScoringContext(tb.trace(model, x), model, [(x[:13],), (x[13:],)], output)
    scores = context.resolve(LinearFilterEnsembles(design=design, keep=keep, drawn=drawn))
    for name, expected in contributions(model, x).items():
        assert torch.allclose(scores[name], expected, rtol=0, atol=1e-12)
        fit = context.details["linear_fits"][name]
        assert float(fit.standard_errors.max()) < 1e-12
        assert fit.r_squared == pytest.approx(1)
    assert not context.notes


def classifier():
    """A small trained-like MLP and three ragged batches."""
    model = seeded(lambda: build(ModelConfig("mlp", (1, 4, 4), 3, widths=(9, 6)), seed=0))
    x = seeded(lambda: torch.randn(50, 1, 4, 4))
    y = (x.flatten(1)[:, :3] * torch.tensor([1.0, 2, 3])).argmax(1)
    return model, [(x[:20], y[:20]), (x[20:40], y[20:40]), (x[40:], y[40:])]


def scored(criterion, model, batches, loss=None):
    context = ScoringContext(tb.trace(model, batches[0][0]), model, batches, loss)
    return context.resolve(criterion), context


def by_hand(model, batches, group, masks):
    """-loss over all samples with neurons of a layer switched off by a hook after ReLU."""
    layer = model.body[{"body.0": 1, "body.2": 3}[group]]
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    found = []
    for mask in masks:
        hook = layer.register_forward_hook(lambda _m, _i, out, k=mask: out * torch.from_numpy(k))
        with torch.no_grad():
            found.append(-F.cross_entropy(model(x), y).item())
        hook.remove()
    return np.array(found)


def test_neurons_of_an_mlp_against_a_regression_by_hand():
    from torchbonsai.criteria.masks import draw_round

    model, batches = classifier()
    scores, context = scored(
        LinearFilterEnsembles(masks_per_channel=3, seed=5, design="hadamard", keep=0.5), model, batches
    )
    for number, group in enumerate(context.graph.groups):
        generator = np.random.default_rng((5, number))
        masks = draw_round("hadamard", group.size, 0.5, generator)
        while len(masks) < 3 * group.size:
            masks = np.concatenate([masks, draw_round("hadamard", group.size, 0.5, generator)])
        design = np.column_stack([np.ones(len(masks)), masks])
        expected = np.linalg.lstsq(design, by_hand(model, batches, group.name, masks), rcond=None)[0][1:]
        assert np.allclose(scores[group.name], expected, atol=1e-6)
    assert context.details["forward_passes"] == sum(f.masks for f in context.details["linear_fits"].values())
    assert context.details["masks"] == context.details["forward_passes"]


@pytest.mark.parametrize("drawn", ["layer", "global"])
def test_replay_and_naive_agree_on_a_convolutional_network(drawn):
    model = build(ModelConfig("bonsai_small", (3, 8, 8), 4, widths=(5, 6, 7, 8)), seed=0).eval()
    x = seeded(lambda: torch.randn(12, 3, 8, 8))
    batches = [(x[:8], torch.arange(8) % 4), (x[8:], torch.arange(4))]
    fast, context = scored(LinearFilterEnsembles(masks_per_channel=3, drawn=drawn), model, batches)
    naive, _ = scored(LinearFilterEnsembles(masks_per_channel=3, drawn=drawn, replay=False), model, batches)
    half, _ = scored(LinearFilterEnsembles(masks_per_channel=3, drawn=drawn, precision="bf16"), model, batches)
    assert not context.notes
    for name, values in naive.items():
        spread = float(values.std())
        assert torch.allclose(fast[name], values, rtol=0, atol=1e-3 * spread)
        assert not torch.equal(half[name], fast[name])
        assert torch.allclose(half[name], values, rtol=0, atol=0.3 * spread)


def test_more_than_may_be_held_is_computed_again(monkeypatch):
    model, batches = classifier()
    kept, _ = scored(LinearFilterEnsembles(), model, batches)
    rewound = []
    original = masked_loss_file.Replay.leave
    monkeypatch.setattr(masked_loss_file, "HELD_BYTES", 0)
    monkeypatch.setattr(
        masked_loss_file.Replay, "leave", lambda self, forget: (rewound.append(forget), original(self, forget))
    )
    again, _ = scored(LinearFilterEnsembles(), model, batches)
    assert all(rewound)
    for name, values in kept.items():
        assert torch.equal(values, again[name])


class Leaks(nn.Module):
    """A value goes through numpy, unseen by any tracer; or the forward draws noise."""

    def __init__(self, how=""):
        super().__init__()
        self.a, self.b, self.how = nn.Linear(4, 6), nn.Linear(6, 3), how

    def forward(self, x):
        out = self.b(self.a(x).relu())
        if self.how == "noise":
            return out + torch.rand(3)
        return out * torch.from_numpy(out.detach().numpy().copy()).abs().mean() if self.how == "numpy" else out


@pytest.mark.parametrize(("how", "why"), [("numpy", "where the replay gives"), ("noise", "random")])
def test_what_cannot_be_replayed_is_run_whole_and_said(how, why):
    plain, model = (seeded(lambda how=how: Leaks(how)) for how in ("", how))
    x, y = seeded(lambda: torch.randn(10, 4)), torch.arange(10) % 3
    graph = tb.trace(plain, x)
    context = ScoringContext(graph, model, [(x, y)])
    with pytest.warns(PruningWarning, match=f"every mask takes a full forward, because .*{why}"):
        fast = context.resolve(LinearFilterEnsembles())
    naive = ScoringContext(graph, model, [(x, y)]).resolve(LinearFilterEnsembles(replay=False))
    assert torch.equal(fast["a"], naive["a"])
    again = ScoringContext(graph, model, [(x, y)]).resolve(LinearFilterEnsembles(replay=False))
    assert torch.equal(again["a"], naive["a"]), "random forwards draw the same for every mask"
    assert len(context.notes) == 1


def test_accuracy_as_the_performance():
    model, batches = classifier()
    scores, context = scored(LinearFilterEnsembles(performance="accuracy", design="hadamard", keep=0.5), model, batches)
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    from torchbonsai.criteria.masks import draw_round

    group = context.graph.groups[0]
    generator = np.random.default_rng((0, 0))
    masks = draw_round("hadamard", group.size, 0.5, generator)
    while len(masks) < 4 * group.size:
        masks = np.concatenate([masks, draw_round("hadamard", group.size, 0.5, generator)])
    found = []
    for mask in masks:
        hook = model.body[1].register_forward_hook(lambda _m, _i, out, k=mask: out * torch.from_numpy(k))
        found.append(float((model(x).argmax(1) == y).double().mean()))
        hook.remove()
    design = np.column_stack([np.ones(len(masks)), masks])
    assert np.allclose(scores[group.name], np.linalg.lstsq(design, np.array(found), rcond=None)[0][1:])


@pytest.mark.parametrize(
    ("batch", "got"),
    [
        (lambda x, y: x, "a batch that is torch.float32"),
        (lambda x, y: (x,), "a batch that is tuple"),
        (lambda x, y: (x, y.float()), r"batch\[1\] that is torch.float32"),
        (lambda x, y: (x, F.one_hot(y, 3)), r"classes \(20, 3\) beside an output"),
        (lambda x, y: (x, None), r"batch\[1\] that is NoneType"),
        (lambda x, y: (x, y + 100), r"classes 10[0-9] to 10[0-9] of [0-9] outputs"),
        (lambda x, y: (x, y * 0 - 1), r"classes -1 to -1 of [0-9] outputs"),
    ],
    ids=["inputs alone", "a tuple of them", "numbers", "one-hot", "nothing", "others'", "none"],
)
def test_accuracy_without_class_numbers_is_refused(batch, got):
    model, ((x, y), *_) = classifier()
    criterion = LinearFilterEnsembles(performance="accuracy")
    context = ScoringContext(tb.trace(model, x), model, [batch(x, y)])
    with pytest.raises(DataError, match=rf"class numbers, \(N,\) integers[\s\S]*{got}"):
        context.resolve(criterion)


def test_accuracy_of_what_gives_no_classes_is_refused():
    x = seeded(lambda: torch.randn(5, 4))
    with pytest.raises(DataError, match=r"beside an output that is dict"):
        scored(LinearFilterEnsembles(performance="accuracy"), seeded(InADict), [(x, torch.zeros(5).long())])


@pytest.mark.parametrize("performance", ["accuracy", "agreement"])
def test_a_loss_that_would_be_ignored_is_refused(performance):
    model, batches = classifier()
    with pytest.raises(ConfigError, match="would be ignored"):
        scored(LinearFilterEnsembles(performance=performance), model, batches, lambda m, b: m(b[0]).square().mean())


def test_agreement_is_minus_the_divergence_from_the_whole_network():
    model, batches = classifier()
    criterion = LinearFilterEnsembles(performance="agreement", design="hadamard", keep=0.5, masks_per_channel=1)
    scores, context = scored(criterion, model, batches)
    from torchbonsai.criteria.masks import draw_round

    x = torch.cat([batch[0] for batch in batches])
    for number, (group, layer) in enumerate(zip(context.graph.groups, (1, 3), strict=True)):
        masks = draw_round("hadamard", group.size, 0.5, np.random.default_rng((0, number)))
        found = []
        for mask in masks:
            hook = model.body[layer].register_forward_hook(lambda _m, _i, out, k=mask: out * torch.from_numpy(k))
            q = model(x).softmax(1)
            hook.remove()
            p = model(x).softmax(1)
            found.append(-float((p * (p / q).log()).sum(1).mean().detach()))
        design = np.column_stack([np.ones(len(masks)), masks])
        assert np.allclose(scores[group.name], np.linalg.lstsq(design, np.array(found), rcond=None)[0][1:], atol=1e-6)


def test_agreement_looks_at_no_labels_and_replays_as_naive():
    model, batches = classifier()
    agreement = LinearFilterEnsembles(performance="agreement")
    scores, context = scored(agreement, model, batches)
    without, _ = scored(agreement, model, [x for x, _ in batches])
    naive, _ = scored(LinearFilterEnsembles(performance="agreement", replay=False), model, batches)
    assert context.notes == []
    assert context.details["forward_passes"] == 1 + sum(fit.masks for fit in context.details["linear_fits"].values())
    for name, values in scores.items():
        assert torch.equal(values, without[name])
        assert torch.allclose(values, naive[name], rtol=1e-4, atol=1e-6)


def test_what_mends_errors_when_it_goes_is_low_by_the_loss_and_not_by_agreement():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
        model[0].bias.zero_()
        model[2].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))  # the second channel outvotes the first
    batches = [(torch.ones(8, 2), torch.zeros(8, dtype=torch.long))]  # and is wrong
    alone = {"design": "balanced", "keep": 0.5, "masks_per_channel": 20}
    loss, _ = scored(LinearFilterEnsembles(**alone), model, batches)
    agreement, _ = scored(LinearFilterEnsembles(performance="agreement", **alone), model, batches)
    assert loss["0"][1] < 0 < loss["0"][0]
    assert agreement["0"][1] > abs(agreement["0"][0])


class InADict(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))

    def forward(self, x):
        return {"logits": self.body(x)}


@pytest.mark.parametrize(
    ("make", "got"), [(InADict, "dict"), (Additive, r"torch.float32 of shape \(5, 1\)")], ids=["dict", "one number"]
)
def test_agreement_of_what_is_no_classes_is_refused(make, got):
    x = seeded(lambda: torch.randn(5, 4))
    with pytest.raises(PruningError, match=rf"compares classes[\s\S]*{got}[\s\S]*loss= of your own"):
        scored(LinearFilterEnsembles(performance="agreement"), seeded(make), [(x, torch.zeros(5))])


def test_sampling_stops_when_the_ranking_at_the_cut_is_settled():
    model = seeded(Additive).double()
    x = seeded(lambda: torch.randn(20, 4, dtype=torch.float64))
    graph = tb.trace(model, x)
    few = LinearFilterEnsembles(design="balanced", keep=0.75, masks_per_channel=50, cut=0.5)
    context = ScoringContext(graph, model, [(x,)], output)
    context.resolve(few)
    fits = context.details["linear_fits"]
    assert all(fit.settled and fit.masks < 30 for fit in fits.values()), "additive: settled as soon as it is known"
    classified, batches = classifier()
    for layer in (classified.body[0], classified.body[2], classified.head):  # neurons of a kind: no cut between them
        layer.weight.data[:] = layer.weight.data[:1] if layer is not classified.head else layer.weight.data[:, :1]
        layer.bias.data[:] = 0.5
    _, hard = scored(
        LinearFilterEnsembles(masks_per_channel=6, cut=0.5, doubt=1e-9, design="hadamard", keep=0.5),
        classified,
        batches,
    )
    for fit in hard.details["linear_fits"].values():
        assert fit.settled is False
        assert fit.masks >= 6 * len(fit.effects)
    _, open_end = scored(LinearFilterEnsembles(), classified, batches)
    assert all(fit.settled is None for fit in open_end.details["linear_fits"].values())


def cuts_asked_for(monkeypatch):
    """How many channels of how many are kept by the cut that each sampling asks about, in order."""
    asked, doubt = [], LinearFit.doubt

    def told(fit, share):
        asked.append((round(share * len(fit.effects), 9), len(fit.effects)))
        return doubt(fit, share)

    monkeypatch.setattr(LinearFit, "doubt", told)
    return asked


@pytest.mark.parametrize(
    "given",
    [
        {"budget": tb.Budget(macs=0.7)},
        {"budget": tb.Budget(macs=0.3), "round_to": 2},
        {"budget": tb.Budget(macs=0.3), "min_channels": {"body.2": 5}},
        {"budget": tb.Budget(channels=0.7)},
        {"budget": tb.Budget(widths={"body.2": 1})},
    ],
    ids=["macs", "multiples", "a floor", "channels", "widths"],
)
def test_the_cut_of_the_budget_is_the_one_that_one_share_of_all_groups_makes(given, monkeypatch):
    model, batches = classifier()
    asked = cuts_asked_for(monkeypatch)
    criterion = LinearFilterEnsembles(cut="budget", masks_per_channel=1)
    result = tb.prune(model, batches[0][0], criterion=criterion, batches=batches, scope="uniform", **given)
    kept = cuts(result)
    assert set(asked) == kept
    assert kept != {(5.0, 9), (3.0, 6)}, "not the better half, whatever the budget"


def cuts(result):
    """Channels kept and channels of each group; of one that stays whole, all but the lowest, which a ranking over all
    groups may take."""
    return {(min(float(mask.sum()), len(mask) - 1), len(mask)) for mask in result.selection.values()}


def test_with_a_ranking_over_groups_the_cut_is_still_that_of_one_share(monkeypatch):
    model, batches = classifier()
    given = {"budget": tb.Budget(channels=0.5), "batches": batches}
    uniform = tb.prune(model, batches[0][0], scope="uniform", criterion=tb.criteria.Random(), **given)
    asked = cuts_asked_for(monkeypatch)
    tb.prune(model, batches[0][0], criterion=LinearFilterEnsembles(cut="budget"), **given)
    assert set(asked) == cuts(uniform)


def test_over_all_layers_at_once_the_cut_is_one_of_all_channels(monkeypatch):
    model, batches = classifier()
    asked = cuts_asked_for(monkeypatch)
    criterion = LinearFilterEnsembles(cut="budget", drawn="global", masks_per_channel=1)
    tb.prune(model, batches[0][0], budget=tb.Budget(widths={"body.0": 4}), criterion=criterion, batches=batches)
    assert set(asked) == {(4.0 + 5, 9 + 6)}


def test_without_a_budget_that_says_how_much_stays_there_is_no_cut():
    (model, batches), criterion = classifier(), LinearFilterEnsembles(cut="budget")
    with pytest.raises(ConfigError, match=r"budget that says how much stays[\s\S]*cut=0.5"):
        scored(criterion, model, batches)
    for budget in (tb.Budget(outliers=1.0), tb.Budget(outliers=1.0, macs=0.9)):
        with pytest.raises(ConfigError, match="budget that says how much stays"):
            tb.prune(model, batches[0][0], budget=budget, criterion=criterion, batches=batches)


def test_the_ranking_comes_with_the_result_of_prune():
    model, batches = classifier()
    criterion = LinearFilterEnsembles()
    result = tb.prune(model, batches[0][0], budget=tb.Budget(channels=0.6), criterion=criterion, batches=batches)
    fits = result.details["linear_fits"]
    assert list(fits) == list(result.scores)
    for name, fit in fits.items():
        assert torch.equal(fit.effects, result.scores[name])
        assert (fit.standard_errors > 0).all()
        assert 0 < fit.r_squared < 1
        assert fit.masks >= 4 * len(fit.effects)
    assert result.verification.exact


def test_a_neuron_that_nobody_reads_has_no_effect():
    model, batches = classifier()
    model.body[2].weight.data[:, 4] = 0
    scores, _ = scored(LinearFilterEnsembles(masks_per_channel=8), model, batches)
    assert abs(float(scores["body.0"][4])) < 0.05 * float(scores["body.0"].abs().max())


@pytest.mark.parametrize("drawn", ["layer", "global"])
def test_nothing_to_score_is_no_error(drawn):
    model, batches = classifier()
    graph = tb.trace(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), batches[0][0])
    assert ScoringContext(graph, model, batches).resolve(LinearFilterEnsembles(drawn=drawn)) == {}


def test_wrong_settings_and_losses():
    for wrong in (
        {"keep": 1.0},
        {"keep": 0},
        {"keep": 0.9, "design": "hadamard"},
        {"design": "latin"},
        {"drawn": "all"},
        {"performance": "f1"},
        {"precision": "fp8"},
        {"masks_per_channel": 0},
        {"ridge": -1},
        {"cut": 1.5},
        {"cut": "half"},
        {"doubt": 0},
        {"doubt": 0.5},
        {"precision": "bf16", "replay": False},
    ):
        with pytest.raises(ConfigError):
            LinearFilterEnsembles(**wrong)
    model, batches = classifier()
    with pytest.raises(DataError):
        ScoringContext(tb.trace(model, batches[0][0]), model).resolve(LinearFilterEnsembles())
    with pytest.raises(PruningError, match="finite"):
        scored(LinearFilterEnsembles(), model, batches, lambda m, b: m(b[0]).mean() / 0)
    with pytest.raises(PruningError, match="tell the effects"):
        scored(LinearFilterEnsembles(design="independent", keep=1 - 1e-9), model, batches)
    with pytest.raises(ConfigError, match="float32"):
        scored(LinearFilterEnsembles(precision="bf16"), model.double(), [(x.double(), y) for x, y in batches])


def test_ridge_needs_fewer_masks_than_channels():
    model, batches = classifier()
    criterion = LinearFilterEnsembles(design="independent", keep=0.8, masks_per_channel=0.5, ridge=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores, context = scored(criterion, model, batches)
    assert all(values.isfinite().all() for values in scores.values())
    assert context.details["linear_fits"]["body.0"].masks == 9


@pytest.mark.parametrize("ridge", [0.0, 1e-6])
def test_with_ridge_sampling_stops_no_sooner_than_least_squares_could(ridge):
    """Additive: the ranking is known as soon as the effects are, from 64 + 3 masks on, and not from the first ten."""
    model = seeded(lambda: Additive(64, 5)).double()
    x = seeded(lambda: torch.randn(20, 4, dtype=torch.float64))
    context = ScoringContext(tb.trace(model, x), model, [(x,)], output)
    scores = context.resolve(LinearFilterEnsembles(masks_per_channel=50, cut=0.5, ridge=ridge))
    fit, expected = context.details["linear_fits"]["a"], contributions(model, x)["a"]
    assert fit.settled
    assert 67 <= fit.masks < 100
    assert torch.equal(scores["a"].argsort()[32:].sort().values, expected.argsort()[32:].sort().values)


def test_fewer_masks_than_channels_settle_nothing():
    model = seeded(Additive).double()
    x = seeded(lambda: torch.randn(20, 4, dtype=torch.float64))
    context = ScoringContext(tb.trace(model, x), model, [(x,)], output)
    context.resolve(LinearFilterEnsembles(keep=0.75, masks_per_channel=0.6, cut=0.5, doubt=0.49, ridge=1e-3))
    for fit in context.details["linear_fits"].values():
        assert fit.masks < len(fit.effects) + 3
        assert fit.settled is False
        assert fit.standard_errors.isnan().all()
