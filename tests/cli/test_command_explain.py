"""`bonsai explain`: groups, couplings, frozen channels with reasons and source lines."""

from __future__ import annotations

import json
from types import ModuleType

import pytest


def test_a_network_of_the_zoo(bonsai) -> None:
    said = bonsai("explain lenet")
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(
        "lenet on 1x1x28x28, weights random, seed 0\n431 k parameters, 2.29 M MACs (one multiply"
    )
    assert "3 groups, 570 channels can be removed" in said.out
    assert "conv2: 50 channels; read by fc1" in said.out


def test_json_names_tensors_roles_reasons_and_lines(bonsai) -> None:
    said = bonsai("explain command_nets:mixed --input 1,5 --json")
    assert said.code == 0
    told = json.loads(said.out)
    assert (told["channels"], told["groups"], told["inputs"]) == (0, [], ["1x5"])
    (stem,) = [f for f in told["frozen"] if f["name"] == "stem"]
    assert stem["size"] == 8
    assert "sort" in stem["reason"]
    assert stem["source"]["file"].endswith("command_nets.py")
    assert "torch.sort(self.stem(x), 1).values" in stem["source"]["code"]


def test_json_of_couplings(bonsai) -> None:
    told = json.loads(bonsai("explain resnet20 --json").out)
    stream = told["groups"][0]
    assert (stream["name"], stream["channels"]) == ("conv1", 16)
    assert {"tensor": "layer1.2.conv2.weight", "axis": 0} in stream["produces"]
    assert {"tensor": "layer1.0.conv1.weight", "axis": 1} in stream["consumes"]
    assert {"tensor": "bn1.running_mean", "axis": 0} in stream["follows"]
    assert (told["params"], told["macs"]) == (269722, 40551040)


def test_another_input(bonsai) -> None:
    assert bonsai("explain resnet20 --input 2,1,16,16").out.startswith("resnet20 on 2x1x16x16")


def test_a_network_of_timm(timm: ModuleType, bonsai) -> None:
    said = bonsai("explain timm:resnet10t --input 1,3,64,64 --classes 6 --json")
    assert said.code == 0
    assert json.loads(said.out)["frozen"][-1]["size"] == 6


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("explain lenett", "near: lenet"),
        ("explain command_nets:raises", "no such layer"),
        ("explain command_nets:missing", "'missing'"),
        ("explain command_nets:mixed", "--input 1,3,224,224"),
        ("explain command_nets:mixed --input 1,6", "mat1 and mat2"),
        ("explain .", "no artifact.json"),
        ("explain lenet --weights nothing.pt", "must be a file"),
        ("explain lenet --pretrained", "--weights"),
        ("explain lenet --colour", "Unrecognized"),
    ],
)
def test_bad_input_is_one_error(line: str, said: str, bonsai, untouched) -> None:
    answer = bonsai(line)
    assert answer.code == 2
    assert said in answer.err
    assert "Traceback" not in answer.err
    assert answer.out == ""
    assert untouched() == []


def test_a_factory_that_tells_no_parameters(bonsai) -> None:
    said = bonsai("explain collections:OrderedDict --input 1,3")
    assert said.code == 2
    assert "must return a torch.nn.Module\n  received: OrderedDict" in said.err
