"""Networks of the zoo: pruned, saved, loaded, and the same bits come out."""

import pytest
import torch

import torchbonsai as tb
from torchbonsai.models import ModelConfig, build


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "densenet40", "shufflenet_small"])
def test_loaded_network_computes_the_same_bits(tmp_path, name):
    config, x = ModelConfig(name), torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    result = tb.prune(build(config, seed=0), x, budget=tb.Budget(macs=0.5), verify=False)
    tb.save(result, tmp_path / "net", build=config)
    again = tb.load(tmp_path / "net")
    with torch.no_grad():
        assert torch.equal(again.eval()(x), result.model.eval()(x))


def test_channels_last_and_half_precision(tmp_path):
    config, x = ModelConfig("bonsai_small", in_shape=(1, 14, 14), classes=5), torch.randn(2, 1, 14, 14)
    model = build(config, seed=0).to(memory_format=torch.channels_last).bfloat16()
    result = tb.prune(model, x.bfloat16(), budget=tb.Budget(channels=0.5))
    tb.save(result, tmp_path / "net", build=config)
    again = tb.load(tmp_path / "net")
    assert [p.stride() for p in again.parameters()] == [p.stride() for p in result.model.parameters()]
    with torch.no_grad():
        assert torch.equal(again.eval()(x.bfloat16()), result.model.eval()(x.bfloat16()))


def test_a_model_that_remembers_its_config_needs_no_build(tmp_path):
    config = ModelConfig("mlp", in_shape=(1, 4, 4), classes=3, widths=(7, 6))
    model = build(config, seed=0)
    model.bonsai_config = config
    result = tb.prune(model, torch.zeros(1, 1, 4, 4), budget=tb.Budget(channels=0.5))
    tb.save(result, tmp_path / "net")
    again = tb.load(tmp_path / "net")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), result.model.parameters(), strict=True))
