"""Settings that mean nothing are refused; steps and rates against values worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from torchbonsai.core.errors import ConfigError
from torchbonsai.training import TrainConfig
from torchbonsai.training.loop import make_optimizer
from torchbonsai.training.schedule import learning_rate, steps_per_epoch, total_steps


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 0}, {"epochs": float("inf")}, {"epochs": -1}, {"lr": 0}, {"lr": float("nan")}, {"momentum": 1.0},
        {"momentum": 0.0}, {"weight_decay": -1.0}, {"batch_size": 0}, {"schedule": "linear"}, {"gamma": 0.0},
        {"milestones": (0.5, 1.5)}, {"warmup_epochs": -0.5}, {"label_smoothing": 1.0}, {"precision": "fp16"},
        {"augment": ("blur",)},
    ],
)  # fmt: skip
def test_settings_that_mean_nothing(settings: dict) -> None:
    with pytest.raises(ConfigError):
        TrainConfig(**({"epochs": 1} | settings))


@pytest.mark.parametrize(
    ("epochs", "images", "batch", "total"),
    [(1, 100, 50, 2), (1, 101, 50, 3), (2.5, 100, 50, 5), (1.01, 100, 50, 3), (0.01, 100, 50, 1), (12, 1000, 128, 96)],
)
def test_total_steps(epochs: float, images: int, batch: int, total: int) -> None:
    assert total_steps(images, TrainConfig(epochs, batch_size=batch)) == total


@given(st.integers(1, 400), st.integers(1, 10_000))
def test_a_whole_number_of_steps_gets_no_extra_one(steps: int, images: int) -> None:
    config = TrainConfig(1.0, batch_size=128)
    epochs = steps / steps_per_epoch(images, config)
    assert total_steps(images, TrainConfig(epochs, batch_size=128)) == steps


def rates(config: TrainConfig, images: int = 40) -> list[float]:
    return [learning_rate(s, images, config) for s in range(total_steps(images, config))]


def test_cosine_by_hand() -> None:
    assert rates(TrainConfig(1, lr=1.0, batch_size=10, warmup_epochs=0)) == pytest.approx(
        [1, 0.853553, 0.5, 0.146447], abs=1e-6
    )


def test_warm_up_by_hand() -> None:
    config = TrainConfig(2, lr=1.0, batch_size=10, warmup_epochs=0.5)
    assert rates(config)[:4] == pytest.approx([1 / 3, 2 / 3, 1.0, 0.933013])
    assert max(rates(TrainConfig(1, lr=1.0, batch_size=10, warmup_epochs=9))) == 1.0  # at most half of the run


def test_steps_by_hand() -> None:
    config = TrainConfig(2, lr=1.0, batch_size=10, warmup_epochs=0, schedule="step", milestones=(0.5, 0.75), gamma=0.1)
    assert rates(config) == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


@given(st.floats(0.05, 20), st.floats(0, 3))
def test_a_longer_run_is_the_same_schedule_stretched(epochs: float, warmup: float) -> None:
    config = TrainConfig(epochs, lr=0.3, batch_size=10, warmup_epochs=warmup)
    found = rates(config)
    peak = found.index(max(found))
    assert min(found) > 0
    assert max(found) <= 0.3 + 1e-12
    assert found[: peak + 1] == sorted(found[: peak + 1])
    assert found[peak:] == sorted(found[peak:], reverse=True)


def test_weight_decay_spares_norms_biases_and_where_asked_depthwise_convolutions() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1, groups=2)
    )
    first, depthwise, norm, grouped = model
    both = make_optimizer(model, TrainConfig(1, weight_decay=0.5)).param_groups
    assert [g["weight_decay"] for g in both] == [0.5, 0.0]
    assert _ids(both[0]) == {id(first.weight), id(depthwise.weight), id(grouped.weight)}
    spared = make_optimizer(model, TrainConfig(1, weight_decay=0.5, decay_depthwise=False)).param_groups
    assert _ids(spared[0]) == {id(first.weight), id(grouped.weight)}
    assert {id(depthwise.weight), id(norm.weight), id(first.bias)} <= _ids(spared[1])
    assert sum(len(g["params"]) for g in spared) == len(list(model.parameters()))


def test_depthwise_convolutions_are_spared_in_every_form() -> None:
    model = nn.Sequential(nn.Conv1d(4, 8, 3, groups=4), nn.ConvTranspose2d(4, 4, 3, groups=4), nn.Conv2d(1, 4, 3))
    nn.utils.parametrizations.weight_norm(model[0])
    decayed = make_optimizer(model, TrainConfig(1, decay_depthwise=False)).param_groups[0]
    assert _ids(decayed) == {id(model[2].weight)}, "of one channel and one group: not depthwise"


def _ids(group: dict) -> set[int]:
    return {id(parameter) for parameter in group["params"]}
