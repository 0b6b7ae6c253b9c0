"""`fold=`: constants and means of removed channels in the biases of those who read them."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torchbonsai as tb
from torchbonsai.surgery.apply import apply
from torchbonsai.surgery.fold import Fold
from torchbonsai.surgery.plan import PruningPlan, Rescale, compose
from torchbonsai.surgery.readers import readers

WIDTH = tb.Budget(channels=0.5)
WIDTHS = tb.Budget(widths={"0": 5, "5": 2, "8": 5})


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = make().eval()
        for m in net.modules():
            if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
                for t in (m.weight, m.bias, m.running_mean):
                    nn.init.normal_(t)
                nn.init.uniform_(m.running_var, 0.5, 1.5)
        return net


def chain(padding=0, mode="zeros"):
    """Every kind of place: a new bias, a grouped convolution's bias, a running mean, a flattened layer's bias."""
    shape = {"padding": padding, "padding_mode": mode}
    body = [
        *(nn.Conv2d(3, 8, 3, bias=False, **shape), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 12, 3, bias=False, **shape), nn.Hardswish()),
        *(nn.Conv2d(12, 6, 3, groups=2, **shape), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.Conv2d(6, 8, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)),
    ]
    return nn.Sequential(*body)


def dead(net):
    """Nothing makes channels 0, 3, 4 of the first layer, 1 of both groups, and 2, 6, 7 of the last convolution."""
    with torch.no_grad():
        net[0].weight[[0, 3, 4]] = 0
        net[5].weight[[1, 4]] = 0
        net[8].weight[[2, 6, 7]] = 0
    return net


def pictures(n, seed, size=12):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def off(small, net, x):
    return (small(x) - net(x)).abs().max().item()


@pytest.mark.parametrize(("padding", "mode"), [(0, "zeros"), (1, "circular"), (1, "replicate"), (1, "reflect")])
def test_dead_producers_leave_and_nothing_changes(padding, mode):
    net = dead(seeded(lambda: chain(padding, mode))).double()
    example, x = pictures(2, 1).double(), pictures(16, 2).double() * 3
    kept = {"0": [1, 2, 5, 6, 7], "5": [0, 2], "8": [0, 1, 3, 4, 5]}
    result = tb.prune(net, example, budget=WIDTHS, fold="constant")
    assert {n: m.nonzero()[0].tolist() for n, m in result.selection.items() if n in kept} == kept
    assert off(result.model, net, x) < 1e-10
    assert off(tb.prune(net, example, budget=WIDTHS).model, net, x) > 0.01
    assert result.verification.exact
    assert "held at the folded constants" in str(result.verification)
    assert {f.name: f.into for f in result.plan.folds} == {
        "3.bias": "new bias",
        "9.running_mean": "running mean",
        "13.bias": "bias",
    }
    assert "17 do not depend on the input" in "\n".join(result.notes)
    assert "0 vary" in "\n".join(result.notes)
    assert net[3].bias is None


def test_zero_padding_is_inexact_at_the_border_alone():
    def make():
        return nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3, padding=1))

    net = seeded(make).double()
    with torch.no_grad():
        net[0].weight[:3] = 0
    x, budget = pictures(4, 3).double(), tb.Budget(channels=0.5)
    result = tb.prune(net, x[:1], budget=budget, fold="constant")
    difference = (result.model(x) - net(x)).abs()
    assert difference[..., 1:-1, 1:-1].max() < 1e-12
    assert difference.max() > 0.1
    assert not result.verification.exact
    assert "2.weight pad with zeros" in result.verification.reason
    relative = (difference[:1].max() / net(x[:1]).abs().max()).item()
    assert result.verification.max_rel_error == pytest.approx(relative, rel=1e-6)
    assert "zero-padded border" in str(result.plan.folds[0])


def test_a_wrong_fold_is_not_explained_by_the_border(monkeypatch):
    net, right = dead(seeded(lambda: chain(1))), Fold.shift
    monkeypatch.setattr(Fold, "shift", lambda self, weight: right(self, weight) * 1.001)
    with pytest.raises(tb.VerificationError, match="must equal the masked large one"):
        tb.prune(net, pictures(1, 1), budget=WIDTHS, fold="constant")


@pytest.mark.parametrize("how", ["constant", "mean"])
def test_nothing_is_disturbed(how):
    net = dead(seeded(chain)).train()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    state = torch.get_rng_state()
    result = tb.prune(net, pictures(1, 1), budget=WIDTHS, fold=how, batches=[pictures(8, 2)])
    assert torch.equal(state, torch.get_rng_state())
    assert all(m.training for m in net.modules())
    assert all(m.training for m in result.model.modules())
    after = net.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(t, after[n]) for n, t in before.items())


def test_what_never_changed_is_folded_with_batches_only_and_said():
    net = seeded(lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU6(), nn.Linear(8, 3)))
    with torch.no_grad():
        net[0].weight[:4] *= 1e-3
        net[0].bias[:4] = 50.0  # always 6 behind the ReLU6, but for inputs of thousands
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    kind = {"budget": tb.Budget(channels=0.5), "criterion": _Given(torch.arange(8.0))}
    alone = tb.prune(net, x[:1], fold="constant", **kind)
    assert not alone.plan.folds
    assert "0 do not depend" in " ".join(alone.notes)
    assert "4 vary and are masked" in " ".join(alone.notes)
    seen = tb.prune(net, x[:1], fold="constant", batches=[x], **kind)
    assert "4 never changed over the batches, which is no proof" in " ".join(seen.notes)
    assert off(seen.model, net, x) < 1e-5
    one = tb.prune(net, x[:1], fold="constant", batches=[x[:1]], **kind)
    assert not one.plan.folds, "one value is no constant"


class _Given:
    needs, normalise = frozenset(), None

    def __init__(self, scores):
        self.scores = scores

    def score(self, context):
        return {g.name: self.scores[: g.size] for g in context.graph.groups}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("padding", [0, 1])
def test_means_bring_the_outputs_nearer(seed, padding):
    net = seeded(lambda: chain(padding))
    x, budget = pictures(32, 9), tb.Budget(channels=0.6)
    kind = {"budget": budget, "criterion": tb.criteria.Random(seed), "batches": [pictures(32, 7), pictures(24, 8)]}
    plain, folded = (tb.prune(net, x[:1], fold=fold, **kind) for fold in (None, "mean"))
    assert {n: m.tolist() for n, m in plain.selection.items()} == {n: m.tolist() for n, m in folded.selection.items()}
    error = [(r.model(x) - net(x)).square().mean().item() for r in (plain, folded)]
    assert error[1] < 0.5 * error[0]
    assert folded.verification.exact is (padding == 0)


def test_the_mean_is_that_of_all_batches_and_positions():
    net = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3, stride=2, padding=1)))
    batches = [pictures(8, 1), pictures(3, 2)]
    result = tb.prune(net, batches[0][:1], budget=tb.Budget(channels=0.5), fold="mean", batches=batches)
    (fold,) = result.plan.folds
    with torch.no_grad():
        wanted = net[1](net[0](torch.cat(batches))).double().mean((0, 2, 3))[fold.positions]
        added = net[2].weight.double()[:, fold.positions].sum((2, 3)) @ wanted
    assert torch.allclose(fold.values, wanted, rtol=1e-6)
    assert torch.allclose(result.model[2].bias.double(), net[2].bias + added, rtol=1e-6)


def test_a_loss_runs_the_model():
    net = seeded(lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))
    kind = {"budget": tb.Budget(channels=0.5), "fold": "mean"}
    direct = tb.prune(net, x[:1], batches=[x], **kind)
    own = tb.prune(net, x[:1], batches=[{"half": x / 2}], loss=lambda m, b: m(b["half"] * 2).mean(), **kind)
    assert torch.equal(direct.plan.folds[0].values, own.plan.folds[0].values)


# ---------------------------------------------------------------------- plans as data
def test_plans_with_folds_survive_json_and_composition():
    net, x = seeded(chain), pictures(16, 1)
    kind = {"fold": "mean", "batches": [x]}
    first = tb.prune(net, x[:1], budget=tb.Budget(channels=0.7), criterion=tb.criteria.Random(0), **kind)
    second = tb.prune(first.model, x[:1], budget=tb.Budget(channels=0.6), criterion=tb.criteria.Random(1), **kind)
    text = json.dumps(first.plan.to_json(), allow_nan=False)
    again = PruningPlan.from_json(json.loads(text))
    assert json.dumps(again.to_json()) == text
    assert torch.equal(apply(again, net)(x), first.model(x))
    both = compose(again, second.plan)
    assert len(both.folds) == len(first.plan.folds) + len(second.plan.folds)
    small = apply(PruningPlan.from_json(both.to_json()), net)
    assert [n for n, _ in small.named_parameters()] == [n for n, _ in second.model.named_parameters()]
    assert torch.allclose(small(x), second.model(x), atol=1e-5)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"3": 4}, {"0": 4}),
        ({"0": 6, "3": 4, "8": 5}, {"0": 4, "3": 3, "8": 4}),
        ({"0": 4}, {"8": 5}),
        ({"8": 5}, {"8": 3}),
    ],
)
@pytest.mark.parametrize("fold", [None, "mean"])
def test_a_bias_that_a_later_cut_adds_was_cut_with_its_weight_before(first, second, fold, tmp_path):
    net, x = seeded(chain), pictures(16, 1)

    def cut(model, widths, seed, fold):
        kind = {"fold": fold, "batches": [x]} if fold else {}
        return tb.prune(model, x[:1], budget=tb.Budget(widths=widths), criterion=tb.criteria.Random(seed), **kind)

    once = cut(net, first, 0, fold)
    twice = cut(once.model, second, 1, "mean")
    plan = PruningPlan.from_json(json.loads(json.dumps(compose(once.plan, twice.plan).to_json())))
    small = apply(plan, net)
    assert {n: t.shape for n, t in small.state_dict().items()} == {
        n: t.shape for n, t in twice.model.state_dict().items()
    }
    assert torch.allclose(small(x), twice.model(x), atol=1e-5)
    again = tb.load(tb.save((twice.model, plan), tmp_path / "small", build=chain), build=chain).eval()
    assert torch.equal(again(x), twice.model(x))


def test_a_bias_beside_rows_that_were_rescaled_before_is_rescaled_too():
    net, x = seeded(lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4, bias=False))), torch.randn(16, 6)
    kind = {"budget": tb.Budget(channels=0.5), "fold": "mean", "batches": [x]}
    rows = Rescale("2.weight", 0, torch.tensor([1, 2]), 0.5)
    before = PruningPlan({}, {}, scales=(rows,))
    second = tb.prune(apply(before, net), x[:1], **kind)
    assert torch.allclose(apply(compose(before, second.plan), net)(x), second.model(x), atol=1e-6)
    with pytest.raises(tb.PlanError, match="rescaled before"):
        compose(PruningPlan({}, {}, scales=(replace(rows, axis=1),)), second.plan)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_numbers_below_a_dtypes_full_precision_are_rounding_too(dtype):
    net, x = seeded(lambda: nn.Sequential(nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 4))), torch.randn(16, 6)
    least = torch.finfo(dtype).smallest_normal
    with torch.no_grad():
        net[2].weight.fill_(least / 3)
        net[2].bias.fill_(least / 3)
    result = tb.prune(net.to(dtype), x[:1].to(dtype), budget=WIDTH, fold="mean", batches=[x.to(dtype)])
    assert result.verification.exact
    assert result.model[2].bias.dtype == dtype


@pytest.mark.parametrize("spoil", [{"into": "elsewhere"}, {"values": []}, {"more": 1}])
def test_other_folds_are_refused(spoil):
    net, x = seeded(chain), pictures(8, 1)
    data = tb.prune(net, x[:1], budget=tb.Budget(channels=0.7), fold="mean", batches=[x]).plan.to_json()
    data["folds"][0] |= spoil
    with pytest.raises(tb.PlanError, match="version 1"):
        PruningPlan.from_json(data)


def test_a_plan_without_folds_says_nothing_of_them():
    net = seeded(chain)
    assert "folds" not in tb.prune(net, pictures(1, 1), budget=WIDTHS).plan.to_json()


# ---------------------------------------------------------------------- a contraction without a bias
def test_a_new_bias_is_counted_trained_and_moved():
    net, x = seeded(chain), pictures(8, 1)
    result = tb.prune(net, x[:1], budget=tb.Budget(channels=0.6), fold="mean", batches=[x])
    assert isinstance(result.model[3].bias, nn.Parameter)
    assert len(result.model[3].bias) == result.model[3].out_channels == len(result.plan.kept["3.bias"][0])
    assert result.cost.after.params == sum(p.numel() for p in result.model.parameters())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(x).square().mean().backward()
    optimizer.step()
    moved = result.plan.transfer(optimizer, result.model)
    held = {id(p) for group in moved.param_groups for p in group["params"]}
    assert held == {id(p) for p in result.model.parameters()}
    assert result.model[3].bias not in moved.state
    before = result.model[3].bias.detach().clone()
    result.model(x).square().mean().backward()
    moved.step()
    assert not torch.equal(before, result.model[3].bias)


@pytest.mark.parametrize("budget", [tb.Budget(params=0.6), tb.Budget(channels=0.8, params=0.9)])
def test_no_bias_is_added_where_parameters_are_budgeted(budget):
    net, x = seeded(chain), pictures(8, 1)
    result = tb.prune(net, x[:1], budget=budget, fold="mean", batches=[x])
    assert result.model[3].bias is None
    assert "3.weight: it has no bias, and a new one would cost what the budget counts" in " ".join(result.notes)
    assert result.verification.exact
    assert result.cost.after.params == sum(p.numel() for p in result.model.parameters())


# ---------------------------------------------------------------------- who is refused
class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.w = nn.Linear(6, 8), nn.Parameter(torch.ones(8, 3) / 3)

    def forward(self, x):
        return self.a(x).relu() @ self.w


class Careless(nn.Linear):
    """Has a place for a bias, and never looks at it."""

    def forward(self, x):
        return F.linear(x, self.weight)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.b(self.a(x).relu()) + self.b(self.a(x).sigmoid())


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return self.a(x).relu().sum(1, keepdim=True) * self.b(x[..., 1:-1, 1:-1])


class Shown(nn.Module):
    """The convolution's own output is returned beside the norm's, so the norm's mean may not answer for it."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(6, 8), nn.Linear(8, 3, bias=False), nn.BatchNorm1d(3)

    def forward(self, x):
        y = self.b(self.a(x).relu())
        return y, self.norm(y)


class Shared(nn.Module):
    """One bias for two layers: only one of them lost something."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(6, 3)
        self.c.bias = self.b.bias

    def forward(self, x):
        return self.b(self.a(x).relu()) * self.c(x)


REFUSED = {
    "no place in the module": (Functional, (4, 6), "w: it has no bias, and its module no place for one"),
    "no place in the forward": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), Careless(8, 3, bias=False)),
        (4, 6),
        "2.weight: it has no bias, and its module or forward no place for one",
    ),
    "read twice": (Twice, (4, 6), "b.weight: its weight is read more than once in a pass"),
    "a sum": (Sum, (1, 3, 6, 6), "aten.sum.dim_IntList: aten.sum.dim_IntList takes no bias"),
    "a shared bias": (Shared, (4, 6), "b.weight: its bias is computed in the forward, or read elsewhere too"),
    "transposed": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 4, 3)),
        (1, 3, 6, 6),
        "2.weight: aten.convolution.default takes no bias that could hold a constant",
    ),
    "a computed weight": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.utils.parametrizations.weight_norm(nn.Linear(8, 3))),
        (4, 6),
        "its weight is computed in the forward",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_who_cannot_take_a_constant_up_is_named(case):
    make, shape, said = REFUSED[case]
    net = seeded(make)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    kind = {"budget": tb.Budget(channels=0.5)}
    result, plain = (tb.prune(net, x, fold=fold, batches=[x], **kind) for fold in ("mean", None))
    assert said in " ".join(result.notes)
    assert not result.plan.folds
    assert torch.equal(torch.nan_to_num(result.model(x)), torch.nan_to_num(plain.model(x)))
    assert result.verification.exact is plain.verification.exact


def test_a_mean_that_others_see_through_is_not_changed():
    net, x = seeded(Shown), torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    result = tb.prune(net, x, budget=tb.Budget(channels=0.5), fold="mean", batches=[x])
    assert [f.into for f in result.plan.folds] == ["new bias"]
    assert result.verification.exact


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"fold": "median"}, tb.ConfigError),
        ({"fold": "mean"}, tb.DataError),
        ({"fold": "mean", "batches": []}, tb.DataError),
        ({"fold": "mean", "batches": [torch.full((2, 3, 12, 12), torch.nan)]}, tb.DataError),
    ],
)
def test_wrong_requests(settings, error):
    with pytest.raises(error):
        tb.prune(seeded(chain), pictures(1, 1), budget=WIDTHS, **settings)


def test_a_model_without_values_is_refused():
    with torch.device("meta"):
        net = chain()
    with pytest.raises(tb.ConfigError, match="needs the values of the weights"):
        tb.prune(
            net,
            torch.randn(1, 3, 12, 12, device="meta"),
            budget=WIDTHS,
            fold="constant",
            criterion=tb.criteria.Random(),
            verify=False,
        )


def test_infinity_is_not_folded():
    net = seeded(lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))
    with torch.no_grad():
        net[0].weight[0] = 3e38
    x = torch.full((2, 6), 10.0)
    kind = {"criterion": _Given(torch.arange(8.0)), "budget": tb.Budget(channels=0.5)}
    result = tb.prune(net, x / 10**6, fold="mean", batches=[x], **kind)
    assert "2.weight: it reads infinity or NaN on the batches" in " ".join(result.notes)


def test_two_examples_must_agree():
    class Either(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.norm = nn.Linear(6, 8), nn.Linear(8, 3, bias=False), nn.BatchNorm1d(3)

        def forward(self, x):
            y = self.b(self.a(x).relu())
            return self.norm(y) if len(x) > 2 else y

    net, x = seeded(Either), torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    graph = tb.trace(net, [x, x[:2]])
    result = tb.prune(net, [x, x[:2]], budget=tb.Budget(channels=0.5), fold="mean", batches=[x])
    folds, refused = readers(graph, result.plan, graph.keep(result.selection))
    assert (folds, list(refused)) == ([], ["b.weight"])
    assert "in another way than another's" in " ".join(result.notes)


# ---------------------------------------------------------------------- trained
def test_trained_resnet20_loses_less_before_fine_tuning():
    from torchbonsai.models import ModelConfig, build
    from torchbonsai.training.checkpoint import load_weights

    path = Path(os.environ.get("TORCHBONSAI_DATA", "")) / "weights" / "resnet20-12fca82f.th"
    if not path.is_file():
        pytest.skip("the trained ResNets are not here; TORCHBONSAI_DATA must name the folder of data")
    net = build(ModelConfig("resnet20"), seed=0).eval()
    load_weights(net, path)
    x = pictures(64, 5, size=32)
    wanted = net(x).log_softmax(1)
    for keep in (0.9, 0.7):
        kind = {"budget": tb.Budget(macs=keep), "criterion": tb.criteria.Magnitude(p=1), "scope": "uniform"}
        lost = []
        for fold in (None, "mean"):
            small = tb.prune(net, x[:1], fold=fold, batches=[pictures(64, 6, size=32)], **kind).model
            got = small(x).log_softmax(1)
            lost.append((wanted.exp() * (wanted - got)).sum(1).mean().item())
        assert lost[1] < lost[0]
