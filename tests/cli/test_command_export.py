"""`bonsai export`: from a folder to files; what the files hold is tested beside `artifacts.export`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import torchbonsai as tb
from torchbonsai.artifacts import save
from torchbonsai.models import ModelConfig, build


@pytest.fixture
def small(bonsai) -> str:
    """A saved network with hard-coded widths, its inputs recorded."""
    assert bonsai("prune command_nets:baked --keep-channels 0.6 --out small").code == 0
    return "small"


def test_both_forms_beside_the_network(small: str, bonsai) -> None:
    said = bonsai(f"export {small} --onnx --pt2")
    assert (said.code, said.err) == (0, "")
    assert "small/model.onnx" in said.out
    assert "small/model.pt2" in said.out
    x = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    model = tb.load(small)  # the files beside it do not make the folder invalid
    module = torch.export.load(Path(small, "model.pt2")).module()
    torch.testing.assert_close(module(x), model(x))


def test_another_folder_and_json(small: str, bonsai) -> None:
    told = json.loads(bonsai(f"export {small} --pt2 --out elsewhere --input 1,3,4,4 --json").out)
    assert [Path(f["path"]) for f in told["files"]] == [Path("elsewhere", "model.pt2")]
    assert told["files"][0]["max_rel_error"] <= told["tolerance"]
    assert not Path(small, "model.pt2").exists()


def test_a_network_saved_without_inputs_asks_for_them(bonsai) -> None:
    save((build(ModelConfig("command_nets:mixed"), seed=0), None), "mixed")
    said = bonsai("export mixed --pt2")
    assert said.code == 2
    assert "--input 1,3,224,224" in said.err
    assert bonsai("export mixed --pt2 --input 1,5").code == 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("export small", "--onnx, --pt2"),
        ("export nowhere --pt2", "no artifact.json"),
        ("export lenet --pt2", "no artifact.json"),
        ("export small --pt2 --input 1,3,9", "any batch size"),
    ],
)
def test_bad_input_is_one_error_and_nothing_is_written(line: str, said: str, small: str, bonsai) -> None:
    before = sorted(p.name for p in Path(small).iterdir())
    answer = bonsai(line)
    assert answer.code == 2
    assert said in answer.err
    assert "Traceback" not in answer.err
    assert sorted(p.name for p in Path(small).iterdir()) == before
