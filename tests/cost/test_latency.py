"""Measured latency: percentiles in order, flags and gradients as found."""

import pytest
import torch

from torchbonsai.core.errors import ConfigError
from torchbonsai.cost.latency import measure_latency
from torchbonsai.testing import toys


class Watcher(torch.nn.Module):
    """Notes in which mode it was run."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(2, 2)
        self.seen = set()

    def forward(self, x):
        self.seen.add((self.training, torch.is_inference_mode_enabled(), torch.get_num_threads()))
        return self.inner(x)


def test_percentiles_device_and_modes():
    toy = toys.chain()
    latency = measure_latency(toy.model, toy.inputs, min_seconds=0.05)
    assert 0 < latency.p10_ms <= latency.median_ms <= latency.p90_ms
    assert latency.n >= 2
    assert latency.device
    assert latency.runtime == "eager"


def test_eval_inference_and_flags_restored():
    model = Watcher()
    model.inner.eval()  # one module in eval inside a model in training: each flag comes back as it was
    threads = torch.get_num_threads()
    assert measure_latency(model, (torch.ones(1, 2),), min_seconds=0.01, threads=1).threads == 1
    assert model.seen == {(False, True, 1)}
    assert model.training
    assert not model.inner.training
    assert torch.get_num_threads() == threads


def test_a_list_of_examples_is_refused():
    with pytest.raises(ConfigError, match="one example"):
        measure_latency(Watcher(), [torch.ones(1, 2)])
