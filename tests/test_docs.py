"""The generated part of the docs is up to date, and its maker refuses a header that is not whole."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

import torchbonsai as tb

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("methods", DOCS / "methods.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_methods_is_what_the_headers_say(maker):
    text = maker.PAGE.read_text(encoding="utf-8")
    assert text == maker.page(text), "docs/criteria.md is stale: run python docs/methods.py"


def test_every_criterion_has_a_row(maker):
    table = maker.table()
    for name in ("Magnitude", "Random", "APoZ"):
        assert f"`{name}(" in table
    assert {tb.criteria.Magnitude, tb.criteria.Random, tb.criteria.APoZ} <= set(maker.methods())
    assert tb.criteria.Criterion not in maker.methods()


def test_a_changed_header_makes_the_page_stale(maker, monkeypatch):
    text = maker.PAGE.read_text(encoding="utf-8")
    module = importlib.import_module("torchbonsai.criteria.random")
    monkeypatch.setattr(module, "__doc__", module.__doc__.replace("Scores: nothing.", "Scores: something."))
    assert "something" in maker.page(text)
    assert text != maker.page(text)


@pytest.mark.parametrize("fault", ["Scores: a. Needs: b.", "", None])
def test_a_header_that_is_not_whole_is_refused(maker, fault):
    module = ModuleType("half")
    module.__doc__ = fault
    with pytest.raises(ValueError, match="half: its header needs"):
        maker.header(module)


def test_every_column_of_the_table_is_explained():
    from torchbonsai.report.console import COLUMNS

    page = (DOCS / "compare.md").read_text(encoding="utf-8")
    assert [name for name in COLUMNS if f"`{name}`" not in page] == []


def test_every_error_is_listed():
    page = (DOCS / "errors.md").read_text(encoding="utf-8")
    errors = {name for name in tb.__all__ if name.endswith("Error")} - {"PruningError"}
    assert errors
    assert [name for name in errors if f"| `{name}` |" not in page] == []
