"""What is installed is whole, and pinned."""

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "torchbonsai"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def pins():
    """Distribution name, normalised -> version."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.]*)", line) for line in lines]
    assert all(found), [line for line, match in zip(lines, found, strict=True) if not match]
    return {normal(match[1]): match[2] for match in found}


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_file_that_is_not_code_is_package_data():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["torchbonsai"]
    files = [p for p in PACKAGE.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")]
    assert {"py.typed", "page.html.j2"} <= {p.name for p in files}
    left_out = [p for p in files if not any(fnmatch(p.relative_to(PACKAGE).as_posix(), g) for g in patterns)]
    assert left_out == []


def test_every_folder_of_code_is_a_package():
    folders = {p.parent for p in PACKAGE.rglob("*.py")}
    assert [f for f in folders if not (f / "__init__.py").exists()] == []


def test_every_dependency_is_pinned_and_the_pin_is_allowed():
    extras = PROJECT["project"]["optional-dependencies"].values()
    wanted = [*PROJECT["project"]["dependencies"], *(d for extra in extras for d in extra)]
    pinned = pins()
    for requirement in wanted:
        name, _, least = requirement.partition(">=")
        if name.startswith("torchbonsai["):
            continue
        version = pinned[normal(name)]
        assert numbers(version) >= numbers(least), requirement


def numbers(version):
    return [int(part) for part in re.findall(r"\d+", version)]


def test_the_engine_depends_on_four_libraries():
    assert {normal(d.partition(">=")[0]) for d in PROJECT["project"]["dependencies"]} == {
        *("torch", "numpy", "scipy", "safetensors")
    }


def test_the_version_is_said_once():
    import torchbonsai

    assert torchbonsai.__version__ == PROJECT["project"]["version"]
    assert f"## {torchbonsai.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
