"""The table of methods in docs/criteria.md, from the headers of the criteria; `python docs/methods.py` rewrites it.

A header is the docstring of the criterion's module, with a line or sentence for each of FIELDS.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType

import torchbonsai as tb

PAGE = Path(__file__).with_name("criteria.md")
BEGIN, END = "<!-- made by docs/methods.py -->\n", "<!-- end -->\n"
FIELDS = ("Paper", "Scores", "Needs", "Formula", "Deviations", "Known problems")


def methods() -> list[type]:
    """The criteria of `tb.criteria`, by name."""
    classes = [getattr(tb.criteria, name) for name in tb.criteria.__all__]
    return [c for c in classes if hasattr(c, "score") and not getattr(c, "_is_protocol", False)]


def header(module: ModuleType) -> dict[str, str]:
    """Field -> its text, on one line. Raises ValueError where a field is missing or stands twice."""
    text = " ".join((module.__doc__ or "").split())
    parts = re.split(rf"(?:^|(?<=\W)) ?({'|'.join(FIELDS)}): ", text)
    if sorted(parts[1::2]) != sorted(FIELDS):
        raise ValueError(f"{module.__name__}: its header needs {', '.join(FIELDS)}, and has {', '.join(parts[1::2])}")
    return {name: part.strip().rstrip(".") for name, part in zip(parts[1::2], parts[2::2], strict=True)}


def row(method: type) -> str:
    """A line of the table."""
    found = header(importlib.import_module(method.__module__))
    call = f"{method.__name__}({', '.join(_argument(p) for p in inspect.signature(method).parameters.values())})"
    cells = [f"`{call}`", *(found[name].replace("|", "\\|") for name in ("Scores", "Needs", "Paper", "Known problems"))]
    return f"| {' | '.join(cells)} |"


def _argument(parameter: inspect.Parameter) -> str:
    return f"{parameter.name}={parameter.default!r}"


def table() -> str:
    """All of it."""
    head = "| `tb.criteria.` | what it scores | needs | paper | known problems |\n|---|---|---|---|---|\n"
    return head + "".join(f"{row(method)}\n" for method in methods())


def page(text: str) -> str:
    """`text`, with the table between the marks made anew. Raises ValueError where the marks are missing."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.exit(0)
