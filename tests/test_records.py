"""What docs and records say was run is what `benchmarks/recipes.py` runs."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from torchbonsai.study.about import read_study
from torchbonsai.study.recipes.iterative import Iterative

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results" / "recipes"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    """benchmarks/recipes.py."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        spec = importlib.util.spec_from_file_location("benchmarks_recipes", ROOT / "benchmarks" / "recipes.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return module


@pytest.fixture
def commands(benchmark: ModuleType) -> dict[str, str]:
    """NAME -> the settings that follow `bonsai recipe`."""
    found: dict[str, str] = benchmark.RECORDS
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


def test_records_are_told_again_without_what_was_run(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sentences, tables and report are made anew; what was measured and how long it took is as it was."""
    monkeypatch.setattr(benchmark, "commit", lambda: "c0ffee1")
    folder = tmp_path / "network-trimming-lenet"
    shutil.copytree(RESULTS / folder.name, folder)
    before, kept = read_study(folder), (folder / "README.md").read_text()
    stale = json.loads((folder / "study.json").read_text()) | {"sentences": ["an old finding"]}
    (folder / "study.json").write_text(json.dumps(stale))
    (folder / "report.html").write_text("an old report")
    benchmark.retell(folder)
    study, page = read_study(folder), (folder / "README.md").read_text()
    sentence, apoz = study.about.sentences
    assert apoz.startswith(
        "Mean APoZ by layer under equal-epochs, before the first cut / before the last: conv2 0.68 / 0.65"
    )
    assert sentence.startswith("Under equal-epochs, trimming left 86.4 k of 431 k parameters (4.99 times fewer)")
    assert f"- {sentence}\n" in page
    assert sentence in (folder / "report.html").read_text()
    assert study.records == before.records
    assert study.about.hardware == before.about.hardware
    (took,) = (line for line in kept.splitlines() if line.startswith("Its stages took "))
    assert took in page.splitlines()
    assert "commit of the report e1f50d1, told again at commit c0ffee1, device" in page
    assert f"records {folder.name}/records\n" in page, "no place of this machine"
    benchmark.retell(folder)
    assert (folder / "README.md").read_text() == page, "as often as one likes"
    monkeypatch.setitem(benchmark.RECORDS, folder.name, "network-trimming --rounds 7")
    for other in (folder, tmp_path / "small-network-trimming"):
        with pytest.raises(SystemExit, match=f"{other.name}: what is kept there is not of the command"):
            benchmark.retell(other)


def test_records_have_the_controls_that_a_run_has_today(benchmark: ModuleType) -> None:
    """Of recipes in rounds: a dense network from every start, uniform widths of an arm's size in the study's unit, and
    how sure scores are, where a recipe tells."""
    for path in sorted(RESULTS.glob("*/study.json")):
        study = read_study(path.parent)
        recipe = benchmark.RECIPES[study.about.recipe]
        if not issubclass(recipe, Iterative):
            continue
        size = "params" if recipe.unit == "params" else "macs"
        for fairness in {r.arm.fairness for r in study.records}:
            here = [r for r in study.records if r.arm.fairness == fairness]
            own = [r for r in here if r.arm.control == ""]
            assert {r.arm.start for r in here if r.arm.control == "dense"} == {r.arm.start for r in own}, path
            told = recipe.name in ("network-trimming", "linear-filter-ensembles")
            assert not told or all(len(r.scored) == study.about.config["rounds"] for r in own), path
            for r in (r for r in here if r.arm.control == "uniform-new"):
                others = [getattr(o, size) for o in own if o.seed == r.seed]
                assert min(abs(getattr(r, size) / other - 1) for other in others) < 0.06, (path, r.seed)


def test_every_record_has_settings_to_be_told_again_with(benchmark: ModuleType) -> None:
    for path in sorted(RESULTS.glob("*/study.json")):
        about = read_study(path.parent).about
        settings = benchmark.settings_of(about)
        told = benchmark.RECIPES[about.recipe](settings).sentences(read_study(path.parent).records)
        assert told, path
        assert settings.seeds == tuple(about.config["seeds"])
