"""`precision="auto"`: measured once, kept with the study, and the same records as if it had been given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import torchbonsai as tb
from torchbonsai.core.errors import ConfigError
from torchbonsai.study.about import read_study
from torchbonsai.study.config import config_of
from torchbonsai.study.runner import Event

SMALL: dict[str, Any] = {
    "starts": "untrained",
    "methods": "random",
    "budgets": "4x",
    "fairness": "equal-epochs",
    "seeds": [3],
    "epochs": 1,
    "limit_train": 64,
    "batch_size": 32,
    "workers": 0,
}


def test_auto_is_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[tuple[str, str]] = []

    def on_event(event: Event) -> None:
        if event.stage.kind.name == "fastest":
            kinds.append((event.what, event.output.result["name"] if event.output else ""))

    records = tb.study.compare(**SMALL, precision="auto", out=tmp_path / "a", on_event=on_event)
    name = kinds[-1][1]
    assert kinds == [("started", ""), ("done", name)]
    again = tb.study.compare(**SMALL, precision="auto", out=tmp_path / "a", on_event=on_event)
    assert kinds[2:] == [("found", name)]
    assert [r.lasting() for r in again] == [r.lasting() for r in records]

    about = read_study(tmp_path / "a").about
    assert about.hardware["arithmetic"].startswith(f"{name}: chosen by measurement")
    chosen = {k: about.config[k] for k in ("precision", "channels_last", "compile")}
    assert chosen["precision"] in ("float32", "bf16")
    given = tb.study.compare(**SMALL, **chosen, out=tmp_path / "b")
    assert [r.lasting() for r in given] == [r.lasting() for r in records]


@pytest.mark.parametrize("more", [{"channels_last": True}, {"compile": True}])
def test_auto_beside_what_it_chooses_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="auto"):
        config_of(**SMALL, precision="auto", **more)


def test_no_stage_is_made_before_the_choice() -> None:
    with pytest.raises(ConfigError, match="auto"):
        config_of(**SMALL, precision="auto").numerics
