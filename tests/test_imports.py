"""`import torchbonsai` brings in the engine wing, and nothing that is slow, heavy or optional."""

import json
import subprocess
import sys

import pytest

ENGINE = {"core", "graph", "surgery", "cost", "criteria", "selection", "pruning"}
WORKSHOP = {"artifacts", "cli", "data", "models", "report", "study", "testing", "training"}
HEAVY = {
    *("altair", "attr", "attrs", "cattrs", "filelock", "jinja2", "markupsafe", "narwhals", "pandas", "PIL", "rich"),
    *("tyro", "vl_convert", "onnx", "onnxruntime", "onnxscript", "onnx_ir", "ray", "lightning", "lightning_fabric"),
    *("matplotlib", "plotly", "torchvision", "timm", "transformers", "huggingface_hub", "datasets", "statsmodels"),
    *("hypothesis", "playwright", "pytest", "sybil", "torch._dynamo", "torch.onnx", "torch._inductor"),
}
PROBE = """
import json, sys
import torch
alone = set(sys.modules)
{code}
print(json.dumps({{"new": sorted(set(sys.modules) - alone), "gpu": torch.cuda.is_initialized()}}))
"""


def after(code):
    """What a fresh process has imported beyond torch itself after `code`, and whether a GPU was touched."""
    ran = subprocess.run([sys.executable, "-c", PROBE.format(code=code)], capture_output=True, text=True, check=False)
    assert not ran.stderr, ran.stderr
    return json.loads(ran.stdout)


def rooms(modules):
    return {m.split(".")[1] for m in modules if m.startswith("torchbonsai.")}


def within(modules, names):
    return sorted(n for n in names if any(m == n or m.startswith(f"{n}.") for m in modules))


def test_the_engine_comes_alone():
    found = after("import torchbonsai as tb; tb.prune; tb.trace; tb.Budget; tb.criteria.Magnitude")
    assert rooms(found["new"]) <= ENGINE
    assert {"graph", "surgery", "cost", "selection"} <= rooms(found["new"])
    assert within(found["new"], HEAVY) == []
    assert found["gpu"] is False


def test_pruning_needs_the_engine_only():
    code = """
import torchbonsai as tb
net = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
assert tb.prune(net, torch.ones(1, 8), budget=tb.Budget(macs=0.5)).verification.exact
"""
    found = after(code)
    assert not rooms(found["new"]) & WORKSHOP
    assert within(found["new"], {"altair", "cattrs", "jinja2", "pandas", "PIL", "rich", "tyro", "vl_convert"}) == []
    assert found["gpu"] is False


def test_the_rest_loads_on_first_use():
    code = """
import torchbonsai as tb
rooms = {"testing": "testing", "models": "models", "data": "data", "save": "artifacts", "study": "study"}
for name, room in rooms.items():
    assert f"torchbonsai.{room}" not in sys.modules, room
    getattr(tb, name)
    assert f"torchbonsai.{room}" in sys.modules, room
tb.study.compare
"""
    found = after(code)
    assert "cattrs" in within(found["new"], HEAVY)  # the probe sees what is imported
    assert found["gpu"] is False


def test_an_unknown_name_is_an_attribute_error():
    import torchbonsai

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = torchbonsai.nothing
