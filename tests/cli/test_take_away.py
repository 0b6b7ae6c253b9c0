"""docs/take-away.md as a new user would do it: every block run in order, every shown line found in what was printed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import torchbonsai

PAGE = Path(__file__).parents[2] / "docs" / "take-away.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d[\d.]*(e[+-]\d+)?")
FRESH = (
    "import runpy, sys\nrunpy.run_path(sys.argv[1])\nassert ('torchbonsai' in sys.modules) == (sys.argv[2] == 'yes')\n"
)


def sections() -> dict[str, list[tuple[str, str]]]:
    """Heading -> (language, text) of its blocks."""
    parts = re.split(r"^## (.*)$", PAGE.read_text(), flags=re.MULTILINE)[1:]
    found = {title: BLOCK.findall(text) for title, text in zip(parts[::2], parts[1::2], strict=True)}
    return {title: blocks for title, blocks in found.items() if blocks}


def in_a_fresh_process(program: Path) -> str:
    """What a program prints; it must not import torchbonsai unless it says so."""
    source = Path(torchbonsai.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(program), "yes" if "import torchbonsai" in program.read_text() else "no"],
        cwd=program.parent,
        env={"PYTHONPATH": f"{source}:{program.parent}", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def masked(text: str) -> list[str]:
    """Lines with numbers and runs of spaces made alike: other versions draw other random weights."""
    return [" ".join(NUMBER.sub("#", line).split()) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("title", sections())
def test_the_page(
    title: str, bonsai: Callable, tmp_path: Path, request: pytest.FixtureRequest, untouched: Callable
) -> None:
    pytest.importorskip("onnxruntime")
    blocks = sections()[title]
    for library in ("timm", "pytorchcv"):
        if any(library in text for _, text in blocks):
            request.getfixturevalue(library)
    printed = ""
    for language, text in blocks:
        if language == "bash":
            said = [bonsai(line.removeprefix("bonsai ")) for line in text.splitlines()]
            assert all(line.startswith("bonsai ") for line in text.splitlines())
            assert [(s.code, s.err) for s in said] == [(0, "")] * len(said)
            printed = "\n".join(s.out for s in said)
        elif language == "py":
            program = tmp_path / text.splitlines()[0].removeprefix("# ")
            program.write_text(text)
            printed = in_a_fresh_process(program) if program.stem.startswith(("run", "go")) else ""
        elif language == "text":
            assert set(masked(text)) <= set(masked(printed)), printed
    assert any(name.startswith(("small", "mine")) for name in untouched())
