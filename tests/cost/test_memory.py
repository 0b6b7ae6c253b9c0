"""Peak memory and model bytes: by hand, against the small networks that are really cut, and against the device."""

import numpy as np
import pytest
import torch
from torch import nn

import torchbonsai as tb
from torchbonsai.core.errors import TraceError
from torchbonsai.cost.memory import BytesModel, PeakModel, measure_peak, model_bytes, peak_bytes
from torchbonsai.cost.tape import record
from torchbonsai.models import ModelConfig, build
from torchbonsai.testing import toys

ZOO = ["lenet", "resnet20", "mobilenet_v2", "densenet40", "shufflenet_small"]


class Wide(nn.Module):
    """1x1 convolutions 3→8→4 on 4x4 pictures, ReLU between, the first output kept for a sum at the end."""

    def __init__(self):
        super().__init__()
        self.up, self.down, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        wide = self.up(x)
        return self.head(self.down(wide.relu())) + wide.mean()


def test_by_hand():
    model, x = Wide().eval(), torch.zeros(1, 3, 4, 4)
    graph = tb.trace(model, x)
    assert list(graph.by_name) == ["up", "down"]
    peak = PeakModel(graph, record(model, x))
    # up, its ReLU (8 channels each) and down (4) are alive while down runs: 20 channels of 16 places of 4 bytes
    assert peak.dense == 20 * 16 * 4
    kept = graph.keep({"up": np.arange(8) < 3, "down": np.arange(4) < 2})
    assert peak.of(kept) == (3 + 3 + 2) * 16 * 4
    weights = BytesModel(graph, model)
    assert weights.dense == 4 * sum(p.numel() for p in model.parameters()) == model_bytes(model)
    assert weights.of(kept) == 4 * ((3 * 3 + 3) + (3 * 2 + 2) + (2 * 2 + 2))


@pytest.mark.parametrize("name", ZOO)
def test_prediction_is_what_the_small_network_takes(name):
    shape = (1, 28, 28) if name == "lenet" else (3, 32, 32)
    model, x = build(ModelConfig(name, in_shape=shape), seed=0).eval(), torch.zeros(2, *shape)
    result = tb.prune(model, x, budget=tb.Budget(macs=0.4), criterion=tb.criteria.Random(), verify=False)
    kept = result.graph.keep(result.selection)
    predicted = PeakModel(result.graph, record(model, x)).of(kept)
    again = tb.trace(result.model, x)
    assert predicted == PeakModel(again, record(result.model, x)).dense == peak_bytes(result.model, x)
    assert BytesModel(result.graph, model).of(kept) == model_bytes(result.model)


@pytest.mark.parametrize("name", ["resnet20", "densenet40"])
def test_the_device_takes_that_and_scratch(name):
    model, x = build(ModelConfig(name), seed=0).eval(), torch.zeros(4, 3, 32, 32)
    predicted = PeakModel(tb.trace(model, x), record(model, x)).dense
    measured = measure_peak(model, x)
    assert predicted <= measured <= 1.05 * predicted


def test_where_there_is_no_scratch_the_device_agrees():
    model, x = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 8)).eval(), torch.zeros(512, 64)
    predicted = PeakModel(tb.trace(model, x), record(model, x)).dense
    assert predicted == 2 * 512 * 256 * 4
    assert measure_peak(model, x) == predicted


def test_a_tape_of_another_network_is_refused():
    model, x = Wide().eval(), torch.zeros(1, 3, 4, 4)
    with pytest.raises(TraceError, match="same ops"):
        PeakModel(tb.trace(model, x), record(nn.Sequential(nn.Conv2d(3, 2, 1), nn.Sigmoid()), x))
    with pytest.raises(TraceError, match="same ops"):
        PeakModel(toys.chain().graph, record(toys.chain().model, toys.chain().inputs))
