"""`tb.Pruner`: the loop's own objects are narrowed, all or nothing, and training goes on as if nothing had happened."""

import copy
import random
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import torchbonsai as tb
from torchbonsai.pruning.schedules import Gradual, Interleaved, Iterative, OneShot
from torchbonsai.surgery.apply import apply
from torchbonsai.testing.hazards import HAZARDS
from torchbonsai.testing.networks import Spec, grow, pictures

X = torch.zeros(2, 3, 8, 8)
OPTIMIZERS = {
    "sgd": lambda ps: torch.optim.SGD(ps, lr=0.05, momentum=0.9, weight_decay=1e-2),
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=0.01, amsgrad=True),
}


class Net(nn.Module):
    """A residual pair, a tied head bias, a buffer along the channels."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.inner = nn.Conv2d(8, 10, 3, padding=1)
        self.outer = nn.Conv2d(10, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = x + self.outer(self.inner(x).relu())
        return self.head(x.mean((2, 3)))


def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net()


def batch(step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(6, 3, 8, 8, generator=generator)
    return x, torch.arange(6) % 4


def train(model, optimizer, steps, after=lambda step: None, first=1):
    for step in range(first, first + steps):
        x, y = batch(step)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        after(step)


def same(a, b):
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_prune_and_transfer_on_the_user_s_own_objects(name):
    model, twin = net(), net()
    optimizer, other = OPTIMIZERS[name](model.parameters()), OPTIMIZERS[name](twin.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 4, 0.1)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    budget = tb.Budget(channels=0.5)
    pruner = tb.Pruner(model, X, optimizer, budget=budget, schedule=OneShot(at=3), follow=[ema, scheduler])
    conv, head, bias = model.stem, model.head, model.head.bias

    def after(step):
        if step <= 3:
            ema.update_parameters(model)
        assert pruner.step() == (step == 3)
        scheduler.step()

    train(model, optimizer, 6, after)
    reference = torch.optim.lr_scheduler.StepLR(other, 4, 0.1)
    averaged = AveragedModel(twin, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    train(twin, other, 3, lambda step: (averaged.update_parameters(twin), reference.step()))
    result = tb.prune(twin, X, budget=budget)
    other = result.plan.transfer(other, result.model)
    for step in range(4, 7):
        train(result.model, other, 1, first=step)
        if step == 4:  # a scheduler of its own does not follow `transfer`
            for group in other.param_groups:
                group["lr"] *= 0.1
    assert same(model, result.model)
    assert (model.stem, model.head) == (conv, head)
    assert model.head.bias is bias
    assert model.stem.out_channels == len(model.stem.weight) < 8
    assert same(ema.module, apply(result.plan, averaged.module))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(other.param_groups[0]["lr"])


def test_one_plan_against_the_original_and_shares_of_the_original(tmp_path):
    model, original = net(), net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    pruner = tb.Pruner(model, X, optimizer, budget=tb.Budget(macs=0.3, params=0.5), schedule=Iterative(cuts=3, every=2))
    seen = []
    train(model, optimizer, 6, lambda step: seen.append(pruner.step()))
    assert seen == [True, False, True, False, True, False]
    result = pruner.result()
    dense = tb.prune(original, X, budget=tb.Budget(macs=1.0)).cost.before
    assert result.cost.before == dense
    assert dense.macs * 0.2 < result.cost.after.macs <= dense.macs * 0.3
    assert result.cost.after.params == sum(p.numel() for p in model.parameters()) <= dense.params * 0.5
    assert result.verification.exact
    assert pruner.cuts == 3
    small = apply(result.plan, original)
    small.load_state_dict(model.state_dict())
    tb.save(result, tmp_path / "small", build=net)
    assert same(tb.load(tmp_path / "small", build=net), model)


def test_uniform_ends_at_the_share_of_every_group_of_the_original():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    schedule = Gradual(begin=0, end=8, every=1)
    pruner = tb.Pruner(model, X, optimizer, budget=tb.Budget(channels=0.3), schedule=schedule, scope="uniform")
    train(model, optimizer, 8, lambda step: pruner.step())
    assert pruner.cuts > 2
    assert (model.stem.out_channels, model.inner.out_channels) == (2, 3)  # ⌊0.3 n + ½⌋ of 8 and 10


def test_a_floor_that_is_a_share_is_one_of_the_original():
    model = net()
    with torch.no_grad():
        model.inner.weight /= 1000  # the worst channels of all
        model.inner.bias /= 1000
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    criterion = tb.criteria.Magnitude(p=2, normalise=None)
    options = {"criterion": criterion, "schedule": Gradual(begin=0, end=4, every=1), "min_channels": 0.5}
    pruner = tb.Pruner(model, X, optimizer, budget=tb.Budget(channels=0.6), **options)
    train(model, optimizer, 4, lambda step: pruner.step())
    assert pruner.cuts > 2
    assert (model.stem.out_channels, model.inner.out_channels) == (6, 5), "half of 10, not half of what a cut found"


def test_widths_are_approached_by_name_and_the_rest_stays_whole():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    budget = tb.Budget(widths={"inner": 3})
    pruner = tb.Pruner(model, X, optimizer, budget=budget, schedule=Interleaved(every=1, share=0.3))
    widths = []
    train(model, optimizer, 6, lambda step: (pruner.step(), widths.append(model.inner.out_channels)))
    assert widths == [7, 5, 3, 3, 3, 3]
    assert model.stem.out_channels == 8


def test_broken_off_and_gone_on_is_the_same():
    def fresh():
        model = net()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        shadow = {k: v.detach().clone() for k, v in model.named_parameters()}
        settings = {"budget": tb.Budget(macs=0.3), "schedule": Iterative(cuts=3, every=3), "follow": [shadow]}
        return model, optimizer, shadow, tb.Pruner(model, X, optimizer, **settings)

    model, optimizer, _, pruner = fresh()
    train(model, optimizer, 8, lambda step: pruner.step())

    half, half_optimizer, half_shadow, half_pruner = fresh()
    train(half, half_optimizer, 5, lambda step: half_pruner.step())
    saved = copy.deepcopy((half_pruner.state_dict(), half.state_dict(), half_optimizer.state_dict()))
    again, again_optimizer, shadow, again_pruner = fresh()
    again_pruner.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    again_optimizer.load_state_dict(saved[2])
    assert {k: v.shape for k, v in shadow.items()} == {k: v.shape for k, v in half_shadow.items()}
    train(again, again_optimizer, 3, lambda step: again_pruner.step(), first=6)
    assert same(again, model)
    assert again_pruner.result().plan.to_json() == pruner.result().plan.to_json()
    assert again_pruner.state_dict() == pruner.state_dict()
    with pytest.raises(tb.PlanError, match="not cut yet"):
        again_pruner.load_state_dict(saved[0])


def snapshot(model, optimizer):
    parameters = dict(model.named_parameters())
    lists = [list(map(id, g["params"])) for g in optimizer.param_groups]
    state = {id(p): dict(s) for p, s in optimizer.state.items()}
    return {k: id(v) for k, v in parameters.items()}, lists, state, model.stem.out_channels


class Factored(torch.optim.SGD):
    """Keeps a state that no plan can slice."""

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["row"] = torch.zeros(p.numel() + 1)
        return super().step(closure)


def test_an_optimizer_that_cannot_follow_leaves_everything_as_it_was():
    model = net()
    optimizer = Factored(model.parameters(), lr=0.01)
    pruner = tb.Pruner(model, X, optimizer, budget=tb.Budget(channels=0.5))
    train(model, optimizer, 1)
    before = snapshot(model, optimizer)
    with pytest.raises(tb.PlanError, match="state"):
        pruner.step()
    assert snapshot(model, optimizer) == before
    assert pruner.steps == pruner.cuts == 0


class Hidden(Net):
    """Its forward reads a weight out of a plain list, which a replaced parameter does not reach."""

    def __init__(self):
        super().__init__()
        self.hidden = [self.stem.weight]

    def forward(self, x):
        x = self.norm(F.conv2d(x, self.hidden[0], padding=1)).relu()
        x = x + self.outer(self.inner(x).relu())
        return self.head(x.mean((2, 3)))


def test_a_weight_that_cannot_be_replaced_is_found_and_everything_put_back():
    model = Hidden()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    shadow = {k: v.detach().clone() for k, v in model.named_parameters()}
    pruner = tb.Pruner(model, X, optimizer, budget=tb.Budget(channels=0.5), follow=[shadow])
    train(model, optimizer, 1)
    before, whole = snapshot(model, optimizer), dict(shadow)
    with pytest.raises(tb.PlanError, match="plain list"):
        pruner.step()
    assert snapshot(model, optimizer) == before
    assert all(shadow[k] is whole[k] for k in whole)
    train(model, optimizer, 1)


def test_gradients_that_are_being_gathered_are_cut_too():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    pruner = tb.Pruner(model, X, optimizer, budget=tb.Budget(channels=0.5))
    x, y = batch(1)
    F.cross_entropy(model(x), y).backward()
    dense = model.inner.weight.grad.clone()
    pruner.step()
    kept = pruner.result().plan.kept["inner.weight"]
    assert torch.equal(model.inner.weight.grad, dense.index_select(0, kept[0]).index_select(1, kept[1]))
    F.cross_entropy(model(x), y).backward()


def test_criteria_with_data_read_a_generator_once_and_a_list_anew():
    for given in ([batch(1), batch(2)], (batch(k) for k in (1, 2))):
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        settings = {"criterion": tb.criteria.APoZ(), "schedule": Iterative(cuts=2, every=1)}
        pruner = tb.Pruner(model, X, optimizer, budget=tb.Budget(channels=0.5), batches=given, **settings)
        train(model, optimizer, 2, lambda step, pruner=pruner: pruner.step())
        assert pruner.cuts == 2


def test_what_cannot_be_pruned_in_place_is_refused_at_once():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    budget = tb.Budget(macs=0.5)
    other = torch.optim.SGD([nn.Parameter(torch.zeros(3))], lr=0.1)
    no_way = [{"zeros": True}, {"shares": {"inner": 0.5}}, {"outliers": 1.0}, {"macs": 0.5, "outliers": 1.0}]
    for asked in [*no_way, {"peak_bytes": 0.5}, {"macs": 0.5, "on": "cpu:eager"}]:
        with pytest.raises(tb.ConfigError, match="a schedule can approach"):
            tb.Pruner(model, X, optimizer, budget=tb.Budget(**asked))
    with pytest.raises(tb.ConfigError, match="another optimizer"):
        tb.Pruner(model, X, optimizer, budget=budget, follow=[torch.optim.lr_scheduler.StepLR(other, 1)])
    with pytest.raises(tb.PlanError, match="optimizer"):
        tb.Pruner(model, X, other, budget=budget)
    with pytest.raises(tb.ConfigError, match="DistributedDataParallel"):
        tb.Pruner(DistributedDataParallel.__new__(DistributedDataParallel), X, optimizer, budget=budget)
    masked = net()
    nn.utils.prune.random_unstructured(masked.inner, "weight", 0.5)
    with pytest.raises(tb.ConfigError, match="masks"):
        tb.Pruner(masked, X, torch.optim.SGD(masked.parameters(), lr=0.1), budget=budget)
    hooked = net()
    hooked.inner.weight.register_hook(lambda g: g)
    pruner = tb.Pruner(hooked, X, torch.optim.SGD(hooked.parameters(), lr=0.1), budget=budget)
    with pytest.raises(tb.PlanError, match="hook"):
        pruner.step()


def chain(*widths):
    """8 inputs, ReLU between; the first layers' later channels are small, so that a ranking leaves them one channel."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = [8, *widths, 3]
        layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())][:-1]
        model = nn.Sequential(*layers)
    with torch.no_grad():
        for layer in layers[:-4:2]:
            layer.weight[1:] *= 1e-3
    return model


def left(model, cuts, **options):
    """The hidden widths after each of the cuts."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = tb.Pruner(model, torch.zeros(2, 8), optimizer, schedule=Iterative(cuts=cuts, every=1), **options)
    seen = []
    for _ in range(cuts):
        pruner.step()
        seen.append([m.out_features for m in model if isinstance(m, nn.Linear)][:-1])
    return seen, pruner.result()


@pytest.mark.parametrize("amount", [8, 8 / 34])
def test_a_layer_that_reached_one_channel_still_counts(amount):
    """The next trace has no group of it."""
    options = {"budget": tb.Budget(channels=amount), "criterion": tb.criteria.Magnitude(normalise=None)}
    seen, result = left(chain(6, 6, 6, 16), 3, **options)
    once = tb.prune(chain(6, 6, 6, 16), torch.zeros(2, 8), **options)
    assert 1 in seen[0], "else this test shows nothing"
    assert sum(seen[-1]) == result.cost.after.channels == once.cost.after.channels == 8


def test_widths_floors_and_multiples_by_name_hold_when_a_layer_is_at_one_channel():
    assert left(chain(2, 8), 2, budget=tb.Budget(widths={"0": 1, "2": 2}))[0][-1] == [1, 2]
    assert left(chain(3, 32), 3, budget=tb.Budget(channels=0.125), scope="uniform")[0][1:] == [[1, 8], [1, 4]]
    for name in ("min_channels", "round_to"):
        seen, _ = left(chain(2, 8), 4, budget=tb.Budget(channels=0.2), scope="knapsack", **{name: {"0": 1, "2": 1}})
        assert seen[-1] == [1, 1]


def test_the_schedule_s_last_cut_asks_nothing_more_of_a_network_that_is_small_enough():
    seen, result = left(chain(1, 4), 4, budget=tb.Budget(widths={"2": 3}))
    assert seen == [[1, 4], [1, 3], [1, 3], [1, 3]]
    assert result.plan.shapes["2.weight"] == (4, 1)


@pytest.mark.parametrize("names", [lambda m: m[0].parameters(), lambda m: (n for n in ["0"]), lambda m: m[0]])
def test_what_is_named_once_is_meant_at_every_cut(names):
    model = chain(6, 6)
    assert left(model, 2, budget=tb.Budget(channels=0.7), ignore=names(model))[0] == [[6, 5], [6, 4]]
    model = chain(6, 6)
    assert left(model, 2, budget=tb.Budget(channels=0.7), only=names(model))[0] == [[5, 6], [4, 6]]
    model = chain(6, 6)
    assert left(model, 2, budget=tb.Budget(channels=0.7), only=[model[0].weight])[0] == [[5, 6], [4, 6]]


def test_a_criterion_without_its_data_is_an_error_before_any_training():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(tb.DataError, match="needs batches"):
        tb.Pruner(model, X, optimizer, budget=tb.Budget(channels=0.5), criterion=tb.criteria.Taylor())


@pytest.mark.parametrize("name", ["min_channels", "round_to"])
def test_a_name_that_fits_nothing_is_an_error_before_any_training(name):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(tb.ConfigError, match="near matches"):
        tb.Pruner(model, X, optimizer, budget=tb.Budget(channels=0.5), **{name: {"stme": 2}})


def test_widths_hold_beside_an_amount_when_they_are_reached():
    """Those that are named keep theirs to the end, the others go on."""
    budget = tb.Budget(widths={"0": 5}, channels=0.5)
    for cuts in (2, 3, 4):
        seen, result = left(chain(6, 6, 6), cuts, budget=budget)
        assert seen[-1][0] == 5
        assert result.cost.after.channels == sum(seen[-1]) == 9
    small = chain(6, 16, 16)
    with torch.no_grad():
        small[0].weight.mul_(1e-3)  # all of its channels are worth least
    seen, _ = left(small, 3, budget=tb.Budget(widths={"0": 5, "2": 8}, macs=0.25))
    assert seen[-1][:2] == [5, 8]
    assert 5 in [widths[0] for widths in seen[:-1]], "reached before the end, else this test shows nothing"


class Blocks(nn.Module):
    """Channels in four blocks: what leaves is, by turns, a position of every block, or a whole block."""

    def __init__(self):
        super().__init__()
        self.c, self.n, self.d, self.f = (
            nn.Conv2d(3, 24, 3),
            nn.GroupNorm(4, 24),
            nn.Conv2d(24, 16, 3),
            nn.Linear(16, 4),
        )

    def forward(self, x):
        return self.f(self.d(self.n(self.c(x)).relu()).relu().mean((2, 3)))


@pytest.mark.parametrize("amount", [{"macs": 0.05}, {"channels": 0.2}])
def test_channels_in_blocks_are_counted_whatever_leaves(amount):
    torch.manual_seed(0)
    model, schedule = Blocks(), Iterative(cuts=4, every=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = tb.Pruner(model, X, optimizer, budget=tb.Budget(**amount), schedule=schedule, verify=False)
    dense = pruner.result().cost.before.channels
    counts = [dense]
    for _ in range(4):
        pruner.step()
        counts.append(pruner.result().cost.after.channels)
    assert pruner.cuts == 4
    assert all(0 < b < a for a, b in pairwise(counts))
    if "channels" in amount:
        told = any("stay for" in note for note in pruner.result().notes)
        assert (counts[-1] <= round(dense * amount["channels"])) is not told


@pytest.mark.parametrize("seed", [12, 80])
def test_a_last_channel_that_a_later_graph_counts_thrice_is_no_floor(seed):
    """Grouped convolutions: one channel of the original is three of the network that is left."""
    generator, names = random.Random(seed), sorted(HAZARDS)
    stages = tuple(
        (names[(seed + 7 * k) % len(names)], generator.randrange(1 << 20), generator.random() < 0.5) for k in range(2)
    )
    spec = Spec(width=6, stages=stages, flat_head=False, seed=seed)
    model = grow(spec)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    budget, schedule = tb.Budget(channels=0.25), Iterative(cuts=2, every=1)
    pruner = tb.Pruner(model, pictures(spec), optimizer, budget=budget, schedule=schedule, verify=False)
    assert [pruner.step(), pruner.step()][0]


def test_a_state_that_was_loaded_goes_on_to_the_same_channels():
    """The one that is loaded knows what the first cuts left."""
    whole, parts = chain(6, 6, 6, 16), [chain(6, 6, 6, 16), chain(6, 6, 6, 16)]
    options = {"budget": tb.Budget(channels=8), "criterion": tb.criteria.Magnitude(normalise=None)}
    seen, _ = left(whole, 3, **options)
    first, second = (
        tb.Pruner(m, torch.zeros(2, 8), torch.optim.SGD(m.parameters(), lr=0.1), schedule=Iterative(3, 1), **options)
        for m in parts
    )
    for _ in range(2):
        first.step()
    second.load_state_dict(first.state_dict())
    parts[1].load_state_dict(parts[0].state_dict())
    second.step()
    assert [m.out_features for m in parts[1] if isinstance(m, nn.Linear)][:-1] == seen[-1]
    assert second.result().cost.after.channels == 8
