"""A network with folded constants, saved, loaded and exported: biases that the class did not make are there again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import torchbonsai as tb
from torchbonsai.artifacts.export import export
from torchbonsai.pruning.prune import PruneResult


def dense() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = (nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3, bias=False))
        return nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 3, bias=False)).eval()


def pictures(n: int) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def result() -> PruneResult:
    found = tb.prune(
        dense(), pictures(1), budget=tb.Budget(channels=0.5), fold="mean", batches=[pictures(16)], scope="uniform"
    )
    assert [f.name for f in found.plan.folds] == ["3.bias", "6.bias"]
    return found


def test_saved_and_loaded(result, tmp_path):
    again = tb.load(tb.save(result, tmp_path / "small", build=dense), build=dense)
    assert torch.equal(again[3].bias, result.model[3].bias)
    assert torch.equal(again[6].bias, result.model[6].bias)
    assert torch.equal(again(pictures(4)), result.model(pictures(4)))


def test_exported_to_onnx(result, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    export(result.model, pictures(2), tmp_path, forms=("onnx",))
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    x = pictures(2)
    (out,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    wanted = result.model(x)
    assert torch.allclose(torch.from_numpy(out), wanted, atol=1e-5)
    without = tb.prune(dense(), pictures(1), budget=tb.Budget(channels=0.5), scope="uniform").model(x)
    assert not torch.allclose(without, wanted, atol=1e-2)
