"""Every network of the zoo, a quarter, half and three quarters of its channels removed: small == masked."""

import os
from pathlib import Path

import pytest
import torch

from torchbonsai.models import ModelConfig, build, names
from torchbonsai.testing import check_surgery
from torchbonsai.training.checkpoint import load_weights

GREY = {"mlp", "lenet", "bonsai_small"}
VARIANTS = [*((name, {}) for name in names()), ("resnet20", {"shortcut": "B"}), ("vgg16_bn", {"head": "4096"})]
TRAINED = {
    20: "resnet20-12fca82f.th",
    32: "resnet32-d509ac18.th",
    44: "resnet44-014dd654.th",
    56: "resnet56-4bfd9763.th",
}


SMALLER = ("resnet", "densenet", "mobilenet")
"""Fully convolutional: 16x16 pixels run through the very same layers, in less time."""


def example(name):
    shape = (1, 28, 28) if name in GREY else (3, 32, 32)
    seen = (3, 16, 16) if name.startswith(SMALLER) else shape
    return shape, torch.randn(1, *seen, generator=torch.Generator().manual_seed(1))


def identity(variant):
    return "-".join((variant[0], *map(str, variant[1].values())))


@pytest.mark.parametrize("variant", VARIANTS, ids=identity)
def test_equals_the_masked_network(variant):
    name, options = variant
    shape, x = example(name)
    model = build(ModelConfig(name, shape, options=tuple(options.items())), seed=0)
    cuts = check_surgery(model, x, reference="hooks")
    assert len(cuts) == 15
    for cut in cuts:
        n, kept = cut.graph.n_atoms, int(cut.kept.sum())
        if cut.seed % 2 == 0:  # one ranking of all channels is exact; uniform rounds in every group
            assert kept == int(n * (1 - cut.removed) + 0.5)
        assert sum(p.numel() for p in cut.small.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("depth", [32, 44, 56, 110])
def test_deeper_networks_with_shortcut_b(depth):
    model = build(ModelConfig(f"resnet{depth}", options=(("shortcut", "B"),)), seed=0)
    check_surgery(model, example("resnet")[1], seeds=(0,), reference="hooks")


@pytest.mark.parametrize("name", ["lenet", "resnet20", "mobilenet_v2", "shufflenet_small", "densenet40"])
def test_equals_the_network_with_removed_slices_poisoned(name):
    shape, x = example(name)
    check_surgery(build(ModelConfig(name, shape), seed=1), x, seeds=(0, 1), reference="poison")


@pytest.mark.parametrize("depth", TRAINED)
def test_trained_weights(depth):
    path = Path(os.environ.get("TORCHBONSAI_DATA", "")) / "weights" / TRAINED[depth]
    if not path.is_file():
        pytest.skip("the trained ResNets are not here; TORCHBONSAI_DATA must name the folder of data")
    model = build(ModelConfig(f"resnet{depth}"), seed=0)
    load_weights(model, path)
    check_surgery(model, example("resnet20")[1], seeds=(0, 1), reference="hooks")
