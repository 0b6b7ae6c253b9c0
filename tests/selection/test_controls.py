"""Shares, floors and multiples a group, by name or pattern."""

import pytest
import torch
from torch import nn

import torchbonsai as tb


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 20, 3),
        nn.ReLU(),
        nn.Conv2d(20, 30, 3),
        nn.ReLU(),
        nn.Conv2d(30, 40, 3),
        nn.ReLU(),
        nn.Conv2d(40, 5, 1),
    )


X = torch.randn(1, 3, 9, 9)


def widths(**options: object) -> dict[str, int]:
    result = tb.prune(net(), X, criterion=tb.criteria.Random(), **options)  # type: ignore[arg-type]
    assert result.verification.exact
    return {name: int(mask.sum()) for name, mask in result.selection.items()}


def test_shares_set_the_groups_they_name_and_leave_the_others_whole() -> None:
    assert widths(budget=tb.Budget(shares={"0": 0.5, "[24]": 0.1})) == {"0": 10, "2": 3, "4": 4}
    assert widths(budget=tb.Budget(shares={"2": 0.25})) == {"0": 20, "2": 8, "4": 40}  # 7.5 rounds up


def test_the_first_pattern_that_fits_counts_and_a_share_respects_floor_and_multiple() -> None:
    budget = tb.Budget(shares={"4": 1.0, "*": 0.1})
    assert widths(budget=budget, min_channels={"0": 7}, round_to={"2": 4}) == {"0": 7, "2": 4, "4": 40}


def test_floors_and_multiples_a_group_bind_the_search() -> None:
    found = widths(budget=tb.Budget(channels=30), min_channels={"4": 15}, round_to={"0": 5}, scope="global")
    assert found["4"] >= 15
    assert found["0"] % 5 == 0
    assert sum(found.values()) <= 30


def test_a_floor_is_a_count_or_a_share_of_the_group_rounded_up() -> None:
    for scope in ("global", "uniform", "knapsack"):
        assert widths(budget=tb.Budget(channels=21), min_channels=0.21, scope=scope) == {"0": 5, "2": 7, "4": 9}
    mixed = {"0": 0.21, "2": 4, "4": 0.15}
    assert widths(budget=tb.Budget(channels=15), min_channels=mixed) == {"0": 5, "2": 4, "4": 6}
    with pytest.raises(tb.BudgetError, match="min_channels=5 to 9"):
        widths(budget=tb.Budget(channels=20), min_channels=0.21)


@pytest.mark.parametrize("option", ["round_to", "min_channels"])
def test_a_name_that_fits_nothing_is_an_error(option: str) -> None:
    with pytest.raises(tb.ConfigError, match=r"near matches|explain"):
        widths(budget=tb.Budget(channels=0.5), **{option: {"layer9": 2}})
    with pytest.raises(tb.ConfigError, match="shares"):
        widths(budget=tb.Budget(shares={"layer9": 0.5}))
    with pytest.raises(tb.ConfigError, match="shares"):
        tb.Budget(shares={"0": 1.5})


def test_zeros_removes_what_is_zero_and_nothing_else() -> None:
    model = net()
    with torch.no_grad():
        model[2].weight[:, 3] = 0  # nobody reads channel 3 of the first
        model[2].weight[5], model[2].bias[5] = 0, 0  # channel 5 of the second is made zero, and relu(0) is 0
    result = tb.prune(model, X, budget=tb.Budget(zeros=True))
    gone = {n: [i for i, k in enumerate(m) if not k] for n, m in result.selection.items()}
    assert gone == {"0": [3], "2": [5], "4": []}
    torch.testing.assert_close(result.model.eval()(X), model.eval()(X))
    untouched = tb.prune(net(), X, budget=tb.Budget(zeros=True))
    assert untouched.plan.kept == {}
    assert "nothing was removed" in untouched.notes[-1]
    with pytest.raises(tb.ConfigError, match="alone"):
        tb.Budget(zeros=True, macs=0.5)


def test_zeros_keeps_a_zero_that_its_activation_lifts() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Sigmoid(), nn.Conv2d(6, 4, 1))
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 0, 0
    assert tb.prune(model, X, budget=tb.Budget(zeros=True)).plan.kept == {}


@pytest.mark.parametrize("option", ["ignore", "only"])
def test_modules_parameters_names_and_what_is_none_of_them(option: str) -> None:
    model = net()
    kept: list[dict[str, int]] = []
    for named in ("0", model[0], [model[0].weight], (name for name in ["0"]), iter([model[0]])):
        result = tb.prune(model, X, budget=tb.Budget(channels=0.5), **{option: named})  # type: ignore[arg-type]
        kept.append({name: int(mask.sum()) for name, mask in result.selection.items()})
    assert all(one == kept[0] for one in kept)
    for wrong in (3, nn.Linear(2, 2), "00", [nn.Parameter(torch.zeros(2))]):
        with pytest.raises(tb.ConfigError, match=f"{option}= must name"):
            tb.prune(model, X, budget=tb.Budget(channels=0.5), **{option: wrong})  # type: ignore[arg-type]


def test_the_model_itself_means_all_of_it() -> None:
    model = net()
    assert tb.prune(model, X, budget=tb.Budget(channels=0.5), only=model).cost.after.channels == 45
    with pytest.raises(tb.BudgetError, match="every channel is frozen"):
        tb.prune(model, X, budget=tb.Budget(channels=0.5), ignore=model)
