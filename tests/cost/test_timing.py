"""Several arms in turns: each gets its time, its threads, and the same rounds as the others."""

import pytest
import torch

from torchbonsai.core.errors import ArtifactError, ConfigError
from torchbonsai.cost.runtime import Target, parse_target, runtime_named
from torchbonsai.cost.timing import LEAST_ROUNDS, Arm, Times, in_turns, speed_ratio


class Clock:
    """A clock that stands still but for the passes of the arms."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def __call__(self):
        return self.now

    def arm(self, seconds, threads):
        def run():
            self.calls.append((seconds, torch.get_num_threads(), torch.is_inference_mode_enabled()))
            self.now += seconds
            return []

        return Arm(run, threads)


def test_arms_take_turns(monkeypatch):
    clock, told, threads = Clock(), [], torch.get_num_threads()
    monkeypatch.setattr("torchbonsai.cost.timing.clock", clock)
    calls, arms = clock.calls, [clock.arm(0.004, 1), clock.arm(0.03, 2)]
    slow, long = in_turns(arms, seconds=0.0, on_round=lambda done, of: told.append((done, of)))
    assert told == [(i + 1, LEAST_ROUNDS) for i in range(LEAST_ROUNDS)]
    assert (slow.runs_per_block, long.runs_per_block) == (5, 1)
    assert len(slow.seconds) == len(long.seconds) == LEAST_ROUNDS
    assert slow.seconds == pytest.approx([0.004] * LEAST_ROUNDS)
    assert long.seconds == pytest.approx([0.03] * LEAST_ROUNDS)
    assert {(s, n) for s, n, _ in calls} == {(0.004, 1), (0.03, 2)}
    assert all(inference for _, _, inference in calls)
    assert torch.get_num_threads() == threads
    assert len([c for c in calls if c[0] == 0.03]) == 2 + LEAST_ROUNDS  # two passes that are not counted, no more
    assert [s for s, _, _ in calls][2 + 2 :] == [*[0.004] * 5, 0.03] * LEAST_ROUNDS
    longer = in_turns(arms, seconds=0.3)  # until the slowest block has had so much
    assert [len(times.seconds) for times in longer] == [10, 10]


def test_a_drift_that_hits_both_leaves_the_ratio():
    drift = (1.0, 3.0, 2.0, 10.0, 1.0)
    before, after = Times(tuple(2.0 * d for d in drift), 1), Times(tuple(0.5 * d for d in drift), 1)
    assert speed_ratio(before, after) == 4.0
    assert after.percentiles_ms(0, 50, 100) == (500.0, 1000.0, 5000.0)


def test_targets_by_name():
    assert str(parse_target("cpu:onnxruntime")) == "cpu:onnxruntime"
    assert str(parse_target("cuda:compile:channels_last")) == "cuda:compile:channels_last"
    for wrong in ("cpu", "eager", "tpu:eager", "cpu:eager:nhwc", "cpu:eager:contiguous:1", "", None):
        with pytest.raises(ConfigError):
            parse_target(wrong)


@pytest.mark.parametrize("name", ["eager", "onnxruntime"])
def test_a_runtime_runs_what_it_was_given(name):
    if name == "onnxruntime":
        pytest.importorskip("onnxruntime")
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3)).train()
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    run = runtime_named(name).load(model, x, Target("cpu", name)).bind(x, 1)
    with torch.inference_mode():
        torch.testing.assert_close(run()[0], model(x), rtol=1e-4, atol=1e-5)
    assert model.training
    with pytest.raises(ConfigError, match="one example"):
        runtime_named(name).load(model, [x, x], Target("cpu", name)).bind([x, x], 1)


def test_where_a_device_or_layout_is_not_there():
    x = torch.zeros(1, 3, 8, 8)
    model = torch.nn.Conv2d(3, 8, 3)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="CUDA"):
            runtime_named("eager").load(model, x, Target("cuda", "eager"))
    pytest.importorskip("onnxruntime")
    with pytest.raises(ConfigError, match="chooses the layout"):
        runtime_named("onnxruntime").load(model, x, Target("cpu", "onnxruntime", "channels_last"))


def test_a_network_that_cannot_be_compiled_is_an_error_and_not_eager():
    class Refused(torch.nn.Module):
        def forward(self, x):
            raise RuntimeError("no")

    with pytest.raises(ArtifactError, match=r"torch\.compile must be able"):
        runtime_named("compile").load(Refused(), torch.zeros(1), Target("cpu", "compile")).bind(torch.zeros(1), 1)
