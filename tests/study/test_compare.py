"""`tb.study.compare` for real, on a few embedded images: controls, both fairnesses, identity, the best network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import torchbonsai as tb
from torchbonsai.data import DataConfig, load
from torchbonsai.study.about import read_study
from torchbonsai.study.config import config_of
from torchbonsai.study.record import RunRecord
from torchbonsai.study.stages.images import to_score_on
from torchbonsai.study.stages.network import taken
from torchbonsai.study.store import Store
from torchbonsai.study.table import counted
from torchbonsai.training.accuracy import accuracy

SMALL: dict[str, Any] = {
    "starts": ["untrained", "pretrained", "trained"],
    "methods": ["l1"],
    "budgets": ["4x"],
    "seeds": [3],
    "epochs": 2,
    "limit_train": 128,
    "batch_size": 32,
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[RunRecord]]:
    out = tmp_path_factory.mktemp("study")
    return out, tb.study.compare(**SMALL, out=out, workers=0)


def arms(records: list[RunRecord], fairness: str) -> set[tuple[str, str, str, bool]]:
    return {
        (r.arm.start, r.arm.method, r.arm.control, r.arm.source_counted) for r in records if r.arm.fairness == fairness
    }


def test_every_arm_and_every_control_is_there(study: tuple[Path, list[RunRecord]]) -> None:
    _, records = study
    starts = ("untrained", "pretrained", "trained")
    pruned = {(s, "l1", control, True) for s in starts for control in ("", "random-widths")}
    uniform = ("untrained", "", "uniform-new", True)
    assert arms(records, "equal-epochs") == pruned | {uniform} | {(s, "", "dense", True) for s in starts}
    free = {(s, m, c, False) for s, m, c, _ in pruned if s == "pretrained"}
    assert arms(records, "equal-compute") == pruned | free | {uniform, ("untrained", "", "dense", True)}


def test_under_equal_epochs_all_train_as_long_after_their_start(study: tuple[Path, list[RunRecord]]) -> None:
    _, records = study
    for r in (r for r in records if r.arm.fairness == "equal-epochs"):
        assert (r.epochs, r.samples) == (2.0, 256)
        assert r.spent.training == 3 * r.macs * 256
        assert (r.spent.source > 0, r.spent.start > 0) == (r.arm.start == "pretrained", r.arm.start == "trained")


def test_under_equal_compute_all_spend_the_costliest_arms_total(study: tuple[Path, list[RunRecord]]) -> None:
    _, records = study
    at_budget = [r for r in records if r.arm.fairness == "equal-epochs" and r.arm.control != "dense"]
    total = max(r.spent.total for r in at_budget)
    stretched = [r for r in records if r.arm.fairness == "equal-compute"]
    assert {r.total_macs_allowed for r in stretched} == {total}
    for r in stretched:
        step = 3 * r.macs * 32
        assert total - step < counted(r) <= total, r.arm
        assert r.arm.control == "dense" or r.epochs >= 2


def test_random_channels_have_the_widths_of_their_method(study: tuple[Path, list[RunRecord]]) -> None:
    _, records = study
    by_arm = {r.arm: r for r in records}
    controls = [r for r in records if r.arm.control == "random-widths"]
    assert len(controls) == 7
    for r in controls:
        method = by_arm[type(r.arm)(r.arm.start, "l1", "", "4x", r.arm.fairness, r.arm.source_counted)]
        assert (r.widths, r.macs) == (method.widths, method.macs)
        assert r.stages["network"] != method.stages["network"]


def test_records_say_what_was_achieved_and_checked(study: tuple[Path, list[RunRecord]]) -> None:
    _, records = study
    for r in records:
        assert 0 <= r.val_accuracy <= 1
        assert 0 <= r.test_accuracy <= 1
        assert r.latency["n"] > 0
        assert r.latency["threads"] == 1
        if r.arm.control != "dense":
            assert r.budget_macs is not None
            assert 0.2 * r.dense_macs < r.macs <= r.budget_macs
        if r.arm.control in ("", "random-widths"):
            assert r.verification["exact"]
            assert r.verification["max_rel_error"] < 1e-10
    uniform = next(r for r in records if r.arm.control == "uniform-new")
    assert uniform.remade.startswith("factory at width 0.")


def test_what_was_cut_is_looked_at_right_after_surgery_and_recalibrated(study: tuple[Path, list[RunRecord]]) -> None:
    out, records = study
    splits = load(DataConfig("fashion-target", limit_train=128))
    for r in records:
        if r.arm.control in ("dense", "uniform-new"):
            assert r.rounds == (), "no weights are inherited through a cut"
            continue
        (point,) = r.rounds
        done = Store(out / "stages").load(r.stages["network"])
        assert done is not None
        network, module = taken(done)
        assert point.after_cut == accuracy(module, splits.val, splits)
        assert tb.recalibrate(module, to_score_on(splits, 1000)), "there are norms"
        assert point.recalibrated == accuracy(module, splits.val, splits)
        assert (point.val_accuracy, point.epochs) == (r.val_accuracy, r.epochs)
        assert (point.macs, point.params, point.widths) == (network.macs, network.params, r.widths)
    assert len({r.rounds[0].after_cut for r in records if r.rounds}) > 2, "the looks differ"


def test_a_dense_network_is_trained_once_for_all(study: tuple[Path, list[RunRecord]]) -> None:
    out, records = study
    dense = next(r for r in records if r.arm.control == "dense" and r.arm.start == "untrained")
    starts = {r.stages["start"] for r in records if r.arm.start == "trained"}
    assert starts == {dense.stages["train"]}, "the trained start is the dense control of the untrained one"
    assert len(list((out / "stages").glob("checkpoint*"))) == 0


def test_the_best_network_is_chosen_on_validation_and_loads(study: tuple[Path, list[RunRecord]]) -> None:
    out, records = study
    about = read_study(out).about
    (choice,) = about.choices
    small = [r for r in records if r.arm.control != "dense"]
    assert choice.val_accuracy == max(r.val_accuracy for r in small)
    assert (choice.runs, choice.arms) == (len(small), len({r.arm for r in small}))
    model = tb.load(out / choice.folder)
    assert sum(p.numel() for p in model.parameters()) == choice.params
    assert model(torch.zeros(2, 1, 14, 14)).shape == (2, 5)


def test_the_same_again_with_processes_gives_the_same_records(
    study: tuple[Path, list[RunRecord]], tmp_path: Path
) -> None:
    """Same seed, threads and versions: same result, whoever computes it."""
    _, records = study
    told: list[str] = []
    again = tb.study.compare(**SMALL, out=tmp_path, workers=2, on_record=lambda record: told.append(record.name))
    assert [r.lasting() for r in again] == [r.lasting() for r in records]
    assert sorted(told) == sorted(r.name for r in records), "every record is told once"


def test_a_finished_study_is_only_read(study: tuple[Path, list[RunRecord]]) -> None:
    out, records = study
    before = {p: p.stat().st_mtime_ns for p in (out / "stages").glob("*/record.json")}
    events: list[Any] = []
    told: list[str] = []
    again = tb.study.compare(
        **SMALL, out=out, workers=0, on_event=events.append, on_record=lambda record: told.append(record.name)
    )
    assert again == records
    assert sorted(told) == sorted(r.name for r in records), "every record is told once"
    assert {e.what for e in events} == {"found"}
    assert {p: p.stat().st_mtime_ns for p in (out / "stages").glob("*/record.json")} == before


def test_another_seed_gives_another_result(study: tuple[Path, list[RunRecord]], tmp_path: Path) -> None:
    _, records = study
    settings = {**SMALL, "seeds": [4], "starts": ["untrained"], "fairness": ["equal-epochs"]}
    (other, *_) = tb.study.compare(**settings, out=tmp_path, workers=0)
    mine = next(r for r in records if r.arm == other.arm)
    assert other.stages.keys() == mine.stages.keys()
    assert other.stages["network"] != mine.stages["network"]


def test_records_on_disk_are_those_returned(study: tuple[Path, list[RunRecord]]) -> None:
    out, records = study
    assert list(read_study(out).records) == records
    data = json.loads((out / "records" / f"{records[0].name}.json").read_text())
    assert data["spent"]["total"] == records[0].spent.total


def test_global_random_state_is_left_alone(study: tuple[Path, list[RunRecord]]) -> None:
    out, _ = study
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    settings = {**SMALL, "seeds": [5], "starts": ["untrained"], "fairness": ["equal-epochs"]}
    tb.study.compare(**settings, out=out, workers=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_what_people_write_is_understood() -> None:
    config = config_of(starts="untrained,trained", budgets=[0.25, "16x"], seeds=2, out=Path("x"))
    assert (config.starts, config.budgets, config.seeds, config.out) == (
        ("untrained", "trained"), ("0.25", "16x"), (0, 1), "x",
    )  # fmt: skip
    assert config_of(fairness="equal-epochs,equal-compute:4x", budgets="4x,16x").fair("equal-compute") == ("4x",)
    assert config_of(out="a", workers=0).identity == config_of(out="b", workers=2).identity
    assert config_of(epochs=2).identity == config_of(epochs=2.0).identity
    assert config_of(threads=1).identity != config_of(threads=2).identity
