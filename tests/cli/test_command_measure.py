"""`bonsai measure`: counted and timed side by side, told as table, data and picture."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import torchbonsai as tb
from torchbonsai.artifacts.given import given_model
from torchbonsai.artifacts.measure import Measured, Size, Timed, measure
from torchbonsai.core.errors import ArtifactError, ConfigError
from torchbonsai.cost.latency import Latency
from torchbonsai.report.measured import sentences

QUICK = "--seconds 0.02"


def test_two_networks_side_by_side(bonsai) -> None:
    assert bonsai("prune lenet --keep-macs 0.5 --round-to 5 --out small").code == 0
    line = f"measure lenet small {QUICK} --runtimes eager onnxruntime --batches 1 3 --json --png p.png --svg p.svg"
    said = bonsai(line)
    assert (said.code, said.err) == (0, "")
    told = json.loads(said.out)
    dense, small = told["models"]
    assert dense["macs"] == 2293000 > small["macs"]
    assert dense["params"] == 431080
    assert dense["model_bytes"] == 4 * 431080
    assert dense["peak_bytes"]["batch 3"] == 3 * dense["peak_bytes"]["batch 1"]
    rows = told["timings"]
    seen = {(r["model"], r["runtime"], r["batch"]) for r in rows}
    assert seen == {(m, r, b) for m in ("lenet", "small") for r in ("eager", "onnxruntime") for b in (1, 3)}
    for row in rows:
        assert row["reason"] == ""
        latency = row["latency"]
        assert 0 < latency["p10_ms"] <= latency["median_ms"] <= latency["p90_ms"]
        assert latency["n"] >= 5
        assert latency["runtime"] == row["runtime"]
        assert row["speed_up"] == 1.0 if row["model"] == "lenet" else row["speed_up"] > 0
    assert {"torch", "onnxruntime"} <= set(told["versions"])
    assert Path("p.png").read_bytes()[:4] == b"\x89PNG"
    assert "<svg" in Path("p.svg").read_text()[:200]


def test_the_table_says_what_it_shows(bonsai) -> None:
    said = bonsai(f"measure lenet {QUICK} --runtimes eager --layouts contiguous channels_last --threads 1")
    assert said.code == 0
    assert "2.29 M" in said.out
    assert "channels_last" in said.out
    assert f"torch {torch.__version__}" in " ".join(said.out.split())


def test_compiled_networks_are_really_compiled(bonsai, monkeypatch: pytest.MonkeyPatch) -> None:
    """More networks of one class than PyTorch would compile before it went on in eager mode."""
    compiled = []
    backend = torch._dynamo.backends.registry.lookup_backend("eager")

    def compiling(module, **options):
        def note(graph, example):
            compiled.append(graph)
            return backend(graph, example)

        return original(module, backend=note, **options)

    original = torch.compile
    monkeypatch.setattr(torch, "compile", compiling)
    given = given_model("lenet")
    many = [replace(given, name=f"lenet{i}", model=tb.models.build(given.build, seed=i).eval()) for i in range(10)]
    found = measure(many, runtimes=["compile"], seconds=0.001)
    assert len(compiled) == 10
    assert all(row.latency is not None and row.latency.runtime == "compile" for row in found.timings)


def test_a_missing_extra_gives_the_install_line(bonsai, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchbonsai.artifacts.forms.find_spec", lambda name: None if name == "onnxruntime" else 1)
    monkeypatch.setattr("torchbonsai.artifacts.measure.runtime_names", lambda: ("eager", "onnxruntime"))
    said = bonsai(f"measure lenet {QUICK} --runtimes onnxruntime")
    assert said.code == 2
    assert "pip install 'torchbonsai[export]'" in said.err
    rest = bonsai(f"measure lenet {QUICK}")
    assert rest.code == 0
    assert "onnxruntime was not measured: not installed: onnxruntime; pip install 'torchbonsai[export]'" in rest.out


def test_what_a_runtime_cannot_run_is_told_beside_the_others(bonsai) -> None:
    Path("fixed_nets.py").write_text(
        "import torch\n\n\nclass Fixed(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.a, self.b = torch.nn.Linear(4, 6), torch.nn.Linear(6, 2)\n\n"
        "    def forward(self, x):\n        return self.b(self.a(x).view(1, 6))\n\n\ndef net():\n    return Fixed()\n"
    )
    said = bonsai(f"measure fixed_nets:net --input 1,4 {QUICK} --runtimes eager onnxruntime")
    sys.modules.pop("fixed_nets", None)
    assert said.code == 0, said.err
    assert "fixed_nets:net was not timed on onnxruntime" in said.out


def test_settings_that_make_no_sense(bonsai) -> None:
    for options in ("lenet lenet", "lenet --batches 0", "lenet --seconds 0"):
        assert bonsai(f"measure {options}").code == 2
    with pytest.raises(ConfigError, match="a runtime is one of"):
        measure([given_model("lenet")], runtimes=["tensorrt"])
    with pytest.raises((ConfigError, ArtifactError)):
        measure([given_model("lenet")], runtimes=["eager"], device="cuda" if not torch.cuda.is_available() else "tpu")


def test_an_interruption_leaves_no_file(bonsai, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("torchbonsai.artifacts.measure.in_turns", interrupted)
    said = bonsai(f"measure lenet {QUICK} --runtimes eager --svg p.svg")
    assert said.code == 130
    assert not Path("p.svg").exists()


def test_it_says_when_macs_fell_and_time_did_not() -> None:
    def timed(model: str, runtime: str, speed_up: float) -> Timed:
        latency = Latency(1.0, 1.0, 1.0, 5, 1, "chip", 1, runtime)
        return Timed(model, runtime, "contiguous", 1, 1, latency, speed_up)

    dense, small = Size("dense", "", 1000, 10, 40, (8,), 0.0), Size("small", "", 250, 5, 20, (4,), 0.6)
    rows = (timed("dense", "eager", 1.0), timed("small", "eager", 1.5), timed("small", "onnxruntime", 3.9))
    said = sentences(Measured((dense, small), rows, (1,), {}))
    assert len(said) == 1
    assert "4.00x fewer MACs than dense and is 1.50x as fast on eager" in said[0]
    assert "60% of its MACs are at widths that are no multiple of 8: --round-to 8" in said[0]
    assert "onnxruntime, contiguous, follows (3.90x)" in said[0]
    assert "bonsai prune --on cpu:eager" in said[0]
    fast = (timed("dense", "eager", 1.0), timed("small", "eager", 3.5))
    assert sentences(Measured((dense, replace(small, odd_macs=0.0)), fast, (1,), {})) == []
