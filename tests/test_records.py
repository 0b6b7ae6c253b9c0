"""What docs and records say was run is what `benchmarks/recipes.py` runs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results" / "recipes"


@pytest.fixture(scope="module")
def commands() -> dict[str, str]:
    """NAME -> the settings that follow `bonsai recipe`."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        spec = importlib.util.spec_from_file_location("benchmarks_recipes", ROOT / "benchmarks" / "recipes.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    found: dict[str, str] = module.RECORDS
    return found


def test_every_record_is_of_the_command_that_is_there_now(commands: dict[str, str]) -> None:
    pages = sorted(RESULTS.glob("*/README.md"))
    assert pages
    for page in pages:
        assert f"runs `bonsai recipe {commands[page.parent.name]}`." in page.read_text(), page


def test_the_sizes_for_two_cores_are_those_that_are_run(commands: dict[str, str]) -> None:
    told = (ROOT / "docs" / "recipes.md").read_text()
    for name in (n for n in commands if n.startswith("small-")):
        command = commands[name].replace("CIFAR", "DIR").replace("MNIST", "DIR")
        assert f"| `{name}`: `bonsai recipe {command}` |" in told, name
