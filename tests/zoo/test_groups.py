"""Every group of every network, worked out from the architecture: names, sizes, who is tied, who reads."""

from functools import cache
from itertools import pairwise

import pytest
import torch
from torch import nn

import torchbonsai as tb
from torchbonsai.graph.channel_graph import FROZEN
from torchbonsai.models import ModelConfig, build, names

GREY = {"mlp", "lenet", "bonsai_small"}


@cache
def traced(name, **options):
    shape = (1, 28, 28) if name in GREY else (3, 32, 32)
    model = build(ModelConfig(name, shape, options=tuple(options.items())), seed=0)
    return model, tb.trace(model, torch.randn(1, *shape, generator=torch.Generator().manual_seed(2)))


def sizes(graph):
    return {g.name: g.size for g in graph.groups}


def modules(group, role):
    """Paths of the modules that make or read the group's channels, in forward order."""
    return [b.name.removesuffix(".weight") for b in group.bound(role)]


def layers(model, *kinds):
    return [(path, m) for path, m in model.named_modules() if isinstance(m, kinds)]


def width(layer):
    return layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features


def only_the_outputs_are_frozen(graph, last, classes=10):
    assert [(f.name, f.size, f.reason) for f in graph.frozen] == [(last, classes, "it is an output of the model")]


# ---------------------------------------------------------------- chains
CHAINS = ["mlp", "lenet", "bonsai_small", *(n for n in names() if n.startswith("vgg"))]


@pytest.mark.parametrize("name", CHAINS)
def test_chains(name):
    """A group a layer; each is made by one layer and read by the next."""
    model, graph = traced(name)
    chain = layers(model, nn.Conv2d, nn.Linear)
    assert sizes(graph) == {path: width(layer) for path, layer in chain[:-1]}
    for (path, _), (after, _) in pairwise(chain):
        group = graph.by_name[path]
        assert modules(group, "produces") == [path]
        assert modules(group, "consumes") == [after]
        assert group.inexact == ()
    only_the_outputs_are_frozen(graph, chain[-1][0])


def test_vgg_with_the_papers_head():
    _, graph = traced("vgg16_bn", head="4096")
    found = sizes(graph)
    assert found["classifier.0"] == found["classifier.3"] == 4096
    assert modules(graph.by_name["features.40"], "consumes") == ["classifier.0"]
    assert len(found) == 15


@pytest.mark.parametrize(("name", "places"), [("mlp", 1), ("lenet", 16), ("vgg16_bn", 1)])
def test_a_flattened_channel_owns_all_its_places(name, places):
    model, graph = traced(name)
    first_linear, layer = layers(model, nn.Linear)[0]
    held = graph.axes.get(f"{first_linear}.weight", {}).get(1)
    if name == "mlp":  # its first layer reads the image
        assert held is None
        return
    last_conv = width(layers(model, nn.Conv2d)[-1][1])
    assert layer.in_features == last_conv * places
    offset = held.min()
    assert (held == offset + torch.arange(last_conv).repeat_interleave(places).numpy()).all()


# ---------------------------------------------------------------- residual networks
RESNETS = [20, 32, 44, 56, 110]


def blocks_of(depth):
    n = (depth - 2) // 6
    return [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(n)]


def inner_groups(depth):
    """The first convolution of every block has channels of its own."""
    return {f"{b}.conv1": 16 * 2 ** (int(b[5]) - 1) for b in blocks_of(depth)}


@pytest.mark.parametrize("depth", RESNETS)
def test_resnet_with_zero_padded_shortcuts(depth):
    """The stream of 16 goes through all stages, the 16 and 32 channels that the pads add begin with their stage."""
    _, graph = traced(f"resnet{depth}")
    streams = {"conv1": 16, "layer2.0.conv2": 16, "layer3.0.conv2": 32}
    assert sizes(graph) == inner_groups(depth) | streams
    only_the_outputs_are_frozen(graph, "linear")
    blocks = blocks_of(depth)
    for name, first_stage in (("conv1", "1"), ("layer2.0.conv2", "2"), ("layer3.0.conv2", "3")):
        writers = [f"{b}.conv2" for b in blocks if b[5] >= first_stage]
        group = graph.by_name[name]
        assert modules(group, "produces") == (["conv1", *writers] if first_stage == "1" else writers)
        entry = f"layer{first_stage}.0"
        readers = [f"{b}.conv1" for b in blocks if b[5] >= first_stage and (b != entry or first_stage == "1")]
        assert modules(group, "consumes") == [*readers, "linear"]


def test_resnet_padded_positions():
    """Option A: 8 zero channels before and 8 after, so channel 8 of stage 2 is channel 0 of stage 1."""
    _, graph = traced("resnet20")
    first, second, third = (graph.axes[f"layer{k}.0.conv2.weight"][0] for k in (1, 2, 3))
    assert (second[8:24] == first).all()
    assert (third[16:48] == second).all()
    assert len(set(third.tolist())) == 64


@pytest.mark.parametrize("depth", RESNETS)
def test_resnet_with_convolved_shortcuts(depth):
    """A stream a stage, tied to the 1x1 convolution that begins it."""
    _, graph = traced(f"resnet{depth}", shortcut="B")
    assert sizes(graph) == inner_groups(depth) | {"conv1": 16, "layer2.0.conv2": 32, "layer3.0.conv2": 64}
    only_the_outputs_are_frozen(graph, "linear")
    blocks = blocks_of(depth)
    for stage, name in ((1, "conv1"), (2, "layer2.0.conv2"), (3, "layer3.0.conv2")):
        writers = {f"{b}.conv2" for b in blocks if b[5] == str(stage)}
        writers |= {"conv1"} if stage == 1 else {f"layer{stage}.0.shortcut.0"}
        assert set(modules(graph.by_name[name], "produces")) == writers
        readers = {f"{b}.conv1" for b in blocks if b[5] == str(stage) and (stage == 1 or b[7:] != "0")}
        readers |= {f"layer{stage + 1}.0.conv1", f"layer{stage + 1}.0.shortcut.0"} if stage < 3 else {"linear"}
        assert set(modules(graph.by_name[name], "consumes")) == readers


# ---------------------------------------------------------------- dense networks
@pytest.mark.parametrize(("name", "per_block", "bottleneck"), [("densenet40", 12, False), ("densenet_bc100", 16, True)])
def test_densenet(name, per_block, bottleneck):
    """Every layer's growth is a group that all later layers of its block, and the transition, read."""
    _, graph = traced(name)
    expected, stem = {"stem": 24 if bottleneck else 16}, 24 if bottleneck else 16
    growing, number, wide = "layers.5" if bottleneck else "layers.2", 0, stem
    readers: dict[str, list[str]] = {}
    alive = ["stem"]
    for block in range(3):
        for _ in range(per_block):
            reader = f"blocks.{number}.layers.2"
            for source in alive:
                readers.setdefault(source, []).append(reader)
            if bottleneck:
                expected[reader] = 48
                readers[reader] = [f"blocks.{number}.{growing}"]
            expected[f"blocks.{number}.{growing}"] = 12
            alive.append(f"blocks.{number}.{growing}")
            number += 1
        wide += 12 * per_block
        end = f"blocks.{number}.2" if block < 2 else "head"
        for source in alive:
            readers.setdefault(source, []).append(end)
        if block < 2:
            wide = wide // 2 if bottleneck else wide
            expected[end], alive, number = wide, [end], number + 1
    assert sizes(graph) == expected
    assert {g.name: modules(g, "consumes") for g in graph.groups} == readers
    only_the_outputs_are_frozen(graph, "head")


# ---------------------------------------------------------------- MobileNet v2
def test_mobilenet_v2():
    """An inner group a block, and a stream a stage, tied over its residual blocks; the depthwise weights follow."""
    _, graph = traced("mobilenet_v2")
    stages = [(1, 16, 1), (2, 24, 6), (3, 32, 6), (4, 64, 6), (3, 96, 6), (3, 160, 6), (1, 320, 6)]
    expected, before, number = {"features.0.0": 32}, 32, 1
    tied = {}
    for blocks, after, factor in stages:
        stream = None
        for _ in range(blocks):
            path = f"features.{number}.conv"
            if factor > 1:
                expected[f"{path}.0.0"] = before * factor
            last = f"{path}.{2 if factor > 1 else 1}"
            stream = stream or last
            tied.setdefault(stream, []).append(last)
            before, number = after, number + 1
        expected[stream] = after
    expected["features.18.0"] = 1280
    assert sizes(graph) == expected
    assert {name: modules(graph.by_name[name], "produces") for name in tied} == tied
    for name in expected:
        if name.endswith("conv.0.0"):
            follows = {b.name for b in graph.by_name[name].bound("follows")}
            assert f"{name.removesuffix('.0.0')}.1.0.weight" in follows
    only_the_outputs_are_frozen(graph, "classifier.1")


# ---------------------------------------------------------------- a shuffle and a literal view
def test_shufflenet_small():
    """The hard-coded view holds the last convolution; a shuffle ties, it freezes nothing."""
    model, graph = traced("shufflenet_small")
    assert [(f.name, f.size) for f in graph.frozen] == [("last.0", 64), ("classifier", 10)]
    view, output = graph.frozen
    assert "view" in view.source.op
    assert view.source.code == "x = x.view(-1, 64 * 4 * 4)"
    assert view.source.file.endswith("shufflenet_small.py")
    assert output.reason == "it is an output of the model"
    for path, layer in layers(model, nn.Conv2d):
        if layer.groups == 1 and path != "last.0":
            held = graph.axes[f"{path}.weight"][0]
            assert (held != FROZEN).all(), f"{path} is frozen in part"
    for path in ("stem.0", *(f"stages.{k}.branch.0.0" for k in (1, 2, 3, 5, 6, 7))):
        assert graph.by_name[path].size == dict(layers(model, nn.Conv2d))[path].out_channels


# ---------------------------------------------------------------- all of them
@pytest.mark.parametrize("name", names())
def test_atoms_are_numbered_group_after_group(name):
    _, graph = traced(name)
    assert [g.offset for g in graph.groups] == [0, *torch.cumsum(torch.tensor([g.size for g in graph.groups]), 0)[:-1]]
    assert graph.unreached == ()
    assert graph.notes == ()
    assert not any(g.inexact for g in graph.groups)
