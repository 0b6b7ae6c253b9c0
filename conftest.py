"""Documentation that runs: Python blocks of README.md and docs/*.md, and the examples in docstrings of src.

A block fenced as `output` must be what the Python block before it printed; `...` stands for any text.
"""

from __future__ import annotations

import contextlib
import doctest
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from sybil import Example, Sybil
from sybil.document import PythonDocStringDocument
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PRINTED = "_printed"
run_python = PythonEvaluator()


def run(example: Example) -> None:
    """Run a block and keep what it prints for the `output` block that may follow."""
    with contextlib.redirect_stdout(io.StringIO()) as stream:
        run_python(example)
    example.namespace[PRINTED] = stream.getvalue()


def compare(example: Example) -> str | None:
    """None where the block is what was printed, else the difference."""
    checker, wanted = doctest.OutputChecker(), doctest.Example("", str(example.parsed))
    got = example.namespace[PRINTED]
    return None if checker.check_output(wanted.want, got, FLAGS) else checker.output_difference(wanted, got, FLAGS)


pages = Sybil(
    parsers=[CodeBlockParser("python", run), CodeBlockParser("output", compare), SkipParser()],
    patterns=["README.md", "docs/*.md"],
    fixtures=["own_folder"],
)
docstrings = Sybil(
    parsers=[DocTestParser(optionflags=FLAGS)],
    patterns=[f"src/torchbonsai/{'*/' * depth}*.py" for depth in range(4)],
    document_types={".py": PythonDocStringDocument},
)
pytest_collect_file = (pages + docstrings).pytest()


@pytest.fixture(scope="module")
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What a page writes, it writes into a folder of its own; what it times, it times anew."""
    with contextlib.chdir(tmp_path_factory.mktemp("page")), pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHBONSAI_CACHE", str(Path.cwd() / "cache"))
        yield Path.cwd()


class ByPage(LoadScopeScheduling):
    """Tests go to whichever process is free; the examples of one file share their names, so they stay together."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return nodeid if file.startswith("tests/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByPage:
    """Of pytest-xdist (whose own loadgroup does not group under pytest 9.2)."""
    return ByPage(config, log)
