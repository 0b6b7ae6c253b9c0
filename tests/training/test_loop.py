"""The loop: against a loop written by hand, deterministic, resumable, and leaving everything else as found."""

from __future__ import annotations

import copy
import math
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from torchbonsai.core.errors import ConfigError, DataError
from torchbonsai.data import Splits, ValSplit, normalise
from torchbonsai.training import EpochReport, StepReport, TrainConfig, TrainState, accuracy, fit

ALL = ("crop", "flip", "cutout")


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


class Interrupted(Exception):
    pass


def test_it_learns(net: nn.Module, splits: Splits) -> None:
    before = accuracy(net, splits.test, splits)
    history = fit(net, splits.train, TrainConfig(8, lr=0.05, batch_size=16), splits=splits, val=splits.val)
    assert accuracy(net, splits.test, splits) > max(before, 0.9)
    assert history.epochs[-1].loss < 0.3 * history.epochs[0].loss
    assert history.epochs[-1].val_accuracy == accuracy(net, splits.val, splits)
    assert (history.steps, history.samples, len(history.epochs)) == (8 * 4, 8 * 53, 8)


def test_it_is_the_loop_written_by_hand(splits: Splits) -> None:
    """Two epochs of one batch: Nesterov momentum, decay on weights only, label smoothing, the schedule's rates."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(32, 5), nn.ReLU(), nn.Linear(5, 3))
    twin = copy.deepcopy(model)
    config = TrainConfig(2, lr=0.3, momentum=0.8, weight_decay=0.1, batch_size=64, warmup_epochs=0, label_smoothing=0.2)
    fit(model, splits.train, config, splits=splits)

    x, y = normalise(splits.train.x, splits), splits.train.y
    momenta = [torch.zeros_like(p) for p in twin.parameters()]
    for lr in (0.3, 0.15):  # cosine of two steps: 1 and 1/2
        loss = F.cross_entropy(twin(x), y, label_smoothing=0.2)
        gradients = torch.autograd.grad(loss, list(twin.parameters()))
        with torch.no_grad():
            for p, g, m in zip(twin.parameters(), gradients, momenta, strict=True):
                g = g + 0.1 * p if p.ndim > 1 else g
                m.mul_(0.8).add_(g)
                p -= lr * (g + 0.8 * m)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-6)


def test_same_seed_and_threads_give_the_same_bits(net: nn.Module, splits: Splits) -> None:
    models = [copy.deepcopy(net) for _ in range(3)]
    for model, seed in zip(models, (7, 7, 8), strict=True):
        fit(model, splits.train, TrainConfig(2, batch_size=16, augment=ALL, seed=seed), splits=splits)
    assert same(models[0], models[1])
    assert not same(models[0], models[2])


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_broken_off_and_gone_on_gives_the_same_bits(
    net: nn.Module, splits: Splits, stop_at: int, channels_last: bool
) -> None:
    config = TrainConfig(3.4, batch_size=16, augment=ALL, channels_last=channels_last, seed=3)
    unbroken = copy.deepcopy(net)
    whole = fit(unbroken, splits.train, config, splits=splits, val=splits.val)

    state, saved = TrainState(), {}

    def stop(report: EpochReport) -> None:
        saved.update(state.state_dict())
        if report.epoch == stop_at:
            raise Interrupted

    with pytest.raises(Interrupted):
        fit(copy.deepcopy(net), splits.train, config, splits=splits, val=splits.val, on_epoch=stop, state=state)
    assert all(isinstance(v, torch.Tensor) and v.device.type == "cpu" for v in saved.values())
    resumed = copy.deepcopy(net)
    seen: list[int] = []
    history = fit(
        resumed, splits.train, config, splits=splits, val=splits.val, state=TrainState.load(saved),
        on_epoch=lambda r: seen.append(r.epoch),
    )  # fmt: skip
    assert same(unbroken, resumed)
    assert seen == list(range(stop_at + 1, 5))
    without_time = [
        [(e.epoch, e.steps, e.samples, e.lr, e.loss, e.val_accuracy) for e in h.epochs] for h in (whole, history)
    ]
    assert without_time[0] == without_time[1]


def test_a_finished_state_trains_no_further(net: nn.Module, splits: Splits) -> None:
    state = TrainState()
    fit(net, splits.train, TrainConfig(1), splits=splits, state=state)
    done = copy.deepcopy(net)
    assert fit(net, splits.train, TrainConfig(1), splits=splits, state=TrainState.load(state.state_dict())).steps == 1
    assert same(net, done)


def test_a_state_of_another_run_is_refused(net: nn.Module, splits: Splits) -> None:
    state = TrainState()
    fit(net, splits.train, TrainConfig(1), splits=splits, state=state)
    other = Splits(type(splits.train)(splits.val.x, splits.val.y), splits.val, splits.test, *_rest(splits))
    with pytest.raises(DataError, match="its own state"):
        fit(net, splits.train, TrainConfig(1, lr=0.2), splits=splits, state=TrainState.load(state.state_dict()))
    with pytest.raises(DataError, match="its own state"):
        fit(net, other.train, TrainConfig(1), splits=other, state=TrainState.load(state.state_dict()))


def _rest(splits: Splits) -> tuple:
    return splits.name, splits.classes, splits.mean, splits.std, splits.source


def test_what_is_not_weights_is_left_as_found(net: nn.Module, splits: Splits) -> None:
    net.eval()
    net[1].train()
    net[5].bias.requires_grad_(False)
    flags, bias = [m.training for m in net.modules()], net[5].bias.clone()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    fit(net, splits.train, TrainConfig(1, augment=ALL), splits=splits, val=splits.val)
    assert torch.equal(torch.get_rng_state(), before)
    assert [m.training for m in net.modules()] == flags
    assert torch.equal(net[5].bias, bias)
    assert not net[5].bias.requires_grad


def test_every_image_once_an_epoch_in_batches_of_even_size(net: nn.Module, splits: Splits) -> None:
    sizes: list[int] = []
    net.register_forward_pre_hook(lambda m, inputs: sizes.append(len(inputs[0])))
    fit(net, splits.train, TrainConfig(1, batch_size=16), splits=splits)
    assert sizes == [14, 13, 13, 13]


def test_steps_are_reported_with_their_rate_and_optimizer(net: nn.Module, splits: Splits) -> None:
    seen: list[StepReport] = []
    fit(
        net,
        splits.train,
        TrainConfig(1.5, lr=0.1, batch_size=16, warmup_epochs=0.5),
        splits=splits,
        on_step=seen.append,
    )
    assert [s.step for s in seen] == [1, 2, 3, 4, 5, 6]
    assert {s.total for s in seen} == {6}
    assert [s.lr for s in seen[:3]] == pytest.approx([0.1 / 3, 0.2 / 3, 0.1])
    assert seen[-1].optimizer.param_groups[0]["lr"] == seen[-1].lr
    assert [g["weight_decay"] for g in seen[0].optimizer.param_groups] == [5e-4, 0.0]


def test_the_same_bits_in_another_process() -> None:
    """A short training on the embedded data in two fresh interpreters."""
    script = (
        "import hashlib, torch; torch.set_num_threads(1)\n"
        "from torchbonsai.data import DataConfig, load\n"
        "from torchbonsai.models import ModelConfig, build\n"
        "from torchbonsai.training import TrainConfig, fit\n"
        "splits = load(DataConfig(limit_train=200))\n"
        "model = build(ModelConfig('bonsai_small', splits.in_shape, splits.classes), seed=1)\n"
        "fit(model, splits.train, TrainConfig(1, batch_size=50, augment=('crop', 'flip')), splits=splits)\n"
        "print(hashlib.sha256(b''.join(v.numpy().tobytes() for v in model.state_dict().values())).hexdigest())\n"
    )
    runs = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True) for _ in range(2)
    ]
    assert len(runs[0].stdout) == 65
    assert runs[0].stdout == runs[1].stdout


def test_bf16_computes_in_bfloat16_and_keeps_float32_weights(net: nn.Module, splits: Splits) -> None:
    kinds = set()
    net[0].register_forward_hook(lambda m, i, output: kinds.add(output.dtype))
    fit(net, splits.train, TrainConfig(1, precision="bf16"), splits=splits, val=splits.val)
    assert kinds == {torch.bfloat16}
    assert {p.dtype for p in net.parameters()} == {torch.float32}


def test_channels_last_is_the_layout_of_weights_and_images(net: nn.Module, splits: Splits) -> None:
    layouts = set()
    net[0].register_forward_pre_hook(lambda m, i: layouts.add(i[0].is_contiguous(memory_format=torch.channels_last)))
    fit(net, splits.train, TrainConfig(1, channels_last=True), splits=splits)
    assert layouts == {True}
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_a_run_that_diverges_is_an_error_and_flags_come_back(net: nn.Module, splits: Splits) -> None:
    net.eval()
    with pytest.raises(DataError, match="loss"):
        fit(net, splits.train, TrainConfig(20, lr=1e30, warmup_epochs=0), splits=splits)
    assert not any(m.training for m in net.modules())


def test_nan_in_weights_is_an_error_before_and_in_evaluation(net: nn.Module, splits: Splits) -> None:
    with torch.no_grad():
        net[5].weight[0, 0] = math.nan
    with pytest.raises(DataError, match=r"5\.weight"):
        fit(net, splits.train, TrainConfig(1), splits=splits)
    with pytest.raises(DataError, match="finite"):
        accuracy(net, splits.val, splits)


def test_a_model_that_cannot_be_trained_here(net: nn.Module, splits: Splits) -> None:
    with pytest.raises(ConfigError, match="trainable"):
        fit(nn.Flatten(), splits.train, TrainConfig(1), splits=splits)
    with pytest.raises(ConfigError, match="trainable"):
        fit(net.requires_grad_(False), splits.train, TrainConfig(1), splits=splits)
    with pytest.raises(ConfigError, match="classes"):
        fit(nn.Sequential(nn.Flatten(), nn.Linear(32, 4)), splits.train, TrainConfig(1), splits=splits)


def test_a_split_of_another_kind_is_refused(net: nn.Module, splits: Splits) -> None:
    with pytest.raises(ConfigError, match="TrainSplit"):
        fit(net, splits.test, TrainConfig(1), splits=splits)
    with pytest.raises(ConfigError, match="ValSplit"):
        fit(net, splits.train, TrainConfig(1), splits=splits, val=splits.test)


def test_accuracy_counts_images_not_batches(splits: Splits) -> None:
    class AlwaysFirst(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.one_hot(torch.zeros(len(x), dtype=torch.int64), 3).float()

    model = AlwaysFirst().train()
    x, y = splits.val.x[:5], torch.tensor([0, 0, 0, 0, 1])
    for batch_size in (1, 2, 4, 5, 100):
        assert accuracy(model, ValSplit(x, y), splits, batch_size=batch_size) == 0.8
    assert model.training
