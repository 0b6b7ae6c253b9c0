"""Export: the same outputs at any batch size, in a process that knows neither torchbonsai nor the class."""

from __future__ import annotations

import copy
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from torchbonsai.artifacts import forms
from torchbonsai.artifacts.export import TOLERANCE, export
from torchbonsai.core.errors import ArtifactError
from torchbonsai.pruning.prune import prune
from torchbonsai.selection.budget import Budget

LOADS_PT2 = """
import sys, torch
module = torch.export.load(sys.argv[1]).module()
with torch.no_grad():
    found = [module(**given) for given in torch.load(sys.argv[2])]
torch.save(found, sys.argv[3])
assert "torchbonsai" not in sys.modules
"""
LOADS_ONNX = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
given = dict(numpy.load(sys.argv[2]))
numpy.savez(sys.argv[3], *session.run(None, given))
assert "torchbonsai" not in sys.modules and "torch" not in sys.modules
"""


@dataclasses.dataclass
class Answer:
    """Outputs of a class that a reader does not have."""

    scores: Tensor
    maps: tuple[Tensor, Tensor]


class Baked(nn.Module):
    """Widths in the forward, two inputs by name, several outputs in a class of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.left, self.right = nn.Conv2d(4, 6, 1), nn.Conv2d(8, 6, 1)
        self.extra = nn.Linear(5, 6)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Sequential(nn.Linear(6 * 16, 10), nn.ReLU(), nn.Linear(10, 4))

    def forward(self, picture: Tensor, *, hint: Tensor) -> Answer:
        left, right = self.stem(picture).relu().split([4, 8], 1)
        maps = self.left(left) + self.right(right) + self.extra(hint)[:, :, None, None]
        return Answer(self.head(self.drop(maps.relu()).view(-1, 6 * 16)), (left.mean((2, 3)), maps))


def in_another_process(program: str, *arguments: Path, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, *map(str, arguments)], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def inputs(batch: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "picture": torch.randn(batch, 3, 4, 4, generator=generator),
        "hint": torch.randn(batch, 5, generator=generator),
    }


@pytest.fixture(scope="module")
def small() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Baked()
    pruned = prune(model, inputs(1), budget=Budget(channels=0.6)).model
    assert pruned.head[0].out_features == 6  # the other channels are outputs
    return pruned


@pytest.fixture(scope="module")
def folder(small: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both files, written once."""
    folder = tmp_path_factory.mktemp("exported") / "new" / "folder"
    state, training = torch.get_rng_state(), small.training
    written = export(small, inputs(1), folder)
    assert [e.path.name for e in written] == ["model.onnx", "model.pt2"]
    assert all(0 <= e.max_rel_error <= TOLERANCE for e in written)
    assert {p.name for p in folder.iterdir()} == {"model.onnx", "model.pt2"}
    assert small.training == training
    assert torch.equal(torch.get_rng_state(), state)
    return folder


def expected(small: nn.Module, batch: int) -> list[Tensor]:
    with torch.no_grad():
        out = copy.deepcopy(small).eval()(**inputs(batch, seed=batch))
    return [out.scores, *out.maps]


def test_pt2_in_a_fresh_process(small: nn.Module, folder: Path, tmp_path: Path) -> None:
    batches = (1, 3, 5)
    torch.save([inputs(batch, seed=batch) for batch in batches], tmp_path / "given.pt")
    in_another_process(LOADS_PT2, folder / "model.pt2", tmp_path / "given.pt", tmp_path / "found.pt", folder=tmp_path)
    for batch, found in zip(batches, torch.load(tmp_path / "found.pt"), strict=True):
        for a, b in zip(expected(small, batch), [found["scores"], *found["maps"]], strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_onnx_in_a_fresh_process(small: nn.Module, folder: Path, batch: int, tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    pytest.importorskip("onnxruntime")
    numpy.savez(tmp_path / "given.npz", **{k: v.numpy() for k, v in inputs(batch, seed=batch).items()})
    in_another_process(
        LOADS_ONNX, folder / "model.onnx", tmp_path / "given.npz", tmp_path / "found.npz", folder=tmp_path
    )
    found = numpy.load(tmp_path / "found.npz")
    for a, b in zip(expected(small, batch), found.values(), strict=True):
        assert (a - torch.from_numpy(b)).abs().max() / a.abs().max() < TOLERANCE


def test_a_file_that_differs_does_not_appear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    (tmp_path / "model.pt2").write_text("older")

    def wrong(program: torch.export.ExportedProgram, path: Path) -> forms.Runner:
        right = forms.write_pt2(program, path)
        return lambda example: [o * 1.001 for o in right(example)]

    monkeypatch.setitem(forms.WRITERS, "pt2", wrong)
    with pytest.raises(ArtifactError, match=r"relative error of 1\.0e-03"):
        export(model, torch.zeros(1, 4), tmp_path, ["pt2"])
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt2"]
    assert (tmp_path / "model.pt2").read_text() == "older"


def test_a_file_that_does_not_run_does_not_appear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(example: object) -> list[Tensor]:
        raise RuntimeError("expected size 2")

    monkeypatch.setitem(forms.WRITERS, "pt2", lambda program, path: fails)
    with pytest.raises(ArtifactError, match=r"(?s)batch of 1.*expected size 2"):
        export(nn.Linear(4, 3), torch.zeros(1, 4), tmp_path / "out", ["pt2"])
    assert not any((tmp_path / "out").iterdir())


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArtifactError, match="written to"):
        export(nn.Linear(4, 3), torch.zeros(1, 4), tmp_path / "file" / "out", ["pt2"])


def test_both_files_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(program: torch.export.ExportedProgram, path: Path) -> forms.Runner:
        path.write_text("half")
        raise OSError("disk full")

    monkeypatch.setitem(forms.WRITERS, "onnx", broken)
    with pytest.raises(OSError, match="disk full"):
        export(nn.Linear(4, 3), torch.zeros(1, 4), tmp_path, ["pt2", "onnx"])
    assert list(tmp_path.iterdir()) == []


class FixedBatch(nn.Module):
    """Works at batch 2 only."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(2, -1) * 2


class Random(nn.Module):
    """Never twice the same."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class NotFinite(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 0


class NoTensor(nn.Module):
    def forward(self, x: Tensor) -> int:
        return x.dim()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (FixedBatch(), "any batch size"),
        (Random(), "relative error"),
        (NotFinite(), "NaN or infinity"),
        (NoTensor(), "no tensor"),
    ],
)
def test_what_cannot_be_exported_says_so(model: nn.Module, said: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=said):
        export(model, torch.ones(1, 4), tmp_path / "out", ["pt2"])
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_missing_packages_give_the_install_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "find_spec", lambda name: None if name == "onnxscript" else json)
    with pytest.raises(ArtifactError, match=r"(?s)not installed: onnxscript.*torchbonsai\[export\]"):
        export(nn.Linear(2, 2), torch.zeros(1, 2), tmp_path / "out", ["onnx"])
    assert not (tmp_path / "out").exists()
    assert export(nn.Linear(2, 2), torch.zeros(1, 2), tmp_path / "out", ["pt2"])[0].path.is_file()
