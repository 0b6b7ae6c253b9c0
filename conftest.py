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
from sybil.integration.pytest import SybilItem
from sybil.parsers.markdown import CodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser

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
    """What a page writes, it writes into a folder of its own."""
    with contextlib.chdir(tmp_path_factory.mktemp("page")):
        yield Path.cwd()


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The examples of one file share their names, so they stay together when the tests are spread over processes."""
    for item in items:
        if isinstance(item, SybilItem):
            item.add_marker(pytest.mark.xdist_group(str(item.path)))
