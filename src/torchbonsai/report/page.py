"""One self-contained HTML page: no network, no other file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import vl_convert

from torchbonsai.core.config import write_atomic
from torchbonsai.report import console, figures, words
from torchbonsai.report.rounds import rounds
from torchbonsai.study.about import Study
from torchbonsai.study.findings import findings
from torchbonsai.study.table import Row, blocks

FILE = "report.html"


def write_page(study: Study) -> Path:
    """Write the page beside `study.json`; returns its path."""
    path = study.folder / FILE
    write_atomic(path, page(study))
    return path


def page(study: Study) -> str:
    """The page as text. Names, paths and errors are untrusted text: everything is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("torchbonsai.report"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    template = environment.get_template("page.html.j2")
    # The only text that is not escaped: Vega's own code, from the installed package. Its stub lacks the default.
    bundle = vl_convert.javascript_bundle()  # type: ignore[call-arg]
    return template.render(bundle=bundle, **content(study))


def content(study: Study) -> dict[str, Any]:
    """What the template shows, as plain data."""
    records = study.records
    return {
        "title": title(study),
        "sentences": [*study.about.sentences, *(f.sentence for f in findings(records))],
        "choices": study.about.choices,
        "chosen_from": words.chosen_from,
        "tested": words.tested(study.about.data),
        "columns": console.COLUMNS,
        "blocks": [_block(*block, study.about.data) for block in blocks(records)],
        "figures": _figures(study),
        "spec": console.spec(study.about),
        "about": study.about,
        "settings": sorted((k, v) for k, v in study.about.config.items() if v not in (None, []) and k != "type"),
        "runs": len(records),
    }


def title(study: Study) -> str:
    """What was studied, on what."""
    on = f"{study.about.config['model']} on {study.about.data['name']}"
    return f"{study.about.recipe}: {on}" if study.about.recipe else on


def _block(budget: str, fairness: str, rows: list[Row], data: dict[str, Any]) -> dict[str, Any]:
    dense_ms = words.dense_latency(rows)
    ordered = sorted(rows, key=lambda r: (r.arm.control != "", r.arm.control))
    return {
        "title": f"{budget} · {fairness}",
        "rows": [(bool(r.arm.control), console.cells(r, dense_ms)) for r in ordered],
        "notes": words.footnotes(rows, data),
    }


def _figures(study: Study) -> list[dict[str, Any]]:
    made = (
        ("Accuracy against MACs", figures.accuracy_against_macs),
        ("Every training", figures.every_training),
        ("Widths a layer", figures.widths),
    )
    found = [{"title": title, "spec": figure(list(study.records))} for title, figure in made]
    if any(len(r.rounds) > 1 for r in study.records):
        found.insert(0, {"title": "Round after round", "spec": rounds(study.records)})
    return found
