"""Rows, their paired differences, and the generated sentence, on made-up records."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from made_up import block, record, runs

from torchbonsai.core.errors import ArtifactError
from torchbonsai.study.findings import findings
from torchbonsai.study.record import Arm, RunRecord, read, write
from torchbonsai.study.table import blocks, rows

CLEAR = {
    ("untrained", "l1"): [0.80, 0.81, 0.82, 0.80],
    ("untrained", "random-widths:l1"): [0.79, 0.83, 0.80, 0.81],
    ("untrained", "uniform-new"): [0.6001, 0.6102, 0.6201, 0.6002],
    ("untrained", "dense"): [0.9, 0.9, 0.91, 0.92],
}


def test_rows_hold_their_seeds_and_their_controls() -> None:
    by_name = {r.arm.name: r for r in rows(block(CLEAR))}
    l1 = by_name["l1"]
    assert l1.accuracy.mean == pytest.approx(0.8075)
    assert l1.vs_uniform is not None
    assert l1.vs_uniform.mean == pytest.approx(0.8075 - 0.60765)
    assert l1.vs_random is not None
    assert l1.vs_random.mean == pytest.approx(0.0, abs=1e-12)
    assert by_name["random channels, widths of l1"].vs_random is None
    assert by_name["uniform width, new weights"].vs_uniform is None
    assert (by_name["dense network"].vs_uniform, by_name["dense network"].vs_random) == (None, None)


def test_the_sentence_supports_what_is_clear_and_no_more() -> None:
    (finding,) = findings(block(CLEAR))
    assert [d.supported for d in finding.differences] == [True, False]
    assert "2 paired differences" in finding.sentence
    assert "support 1: untrained l1 is above the uniform network from new weights by 20.0 points" in finding.sentence
    assert "not shown at this n: untrained l1 against random channels at its widths, +0.0 points" in finding.sentence
    assert "n = 4 trainings" in finding.sentence


def test_a_difference_that_stands_alone_may_fall_among_many() -> None:
    """p = 0.03 for one question is a claim; asked beside five others that say nothing, Holm takes it back."""
    one = {("untrained", "l1"): [0.80, 0.81, 0.83], ("untrained", "uniform-new"): [0.75, 0.77, 0.76]}
    (alone,) = findings(block(one))
    assert alone.differences[0].interval.p == pytest.approx(0.0257, abs=1e-3)
    assert alone.differences[0].supported
    noise = {("trained", f"m{i}"): [0.75, 0.78 + i / 1000, 0.74] for i in range(5)}
    (many,) = findings(block({**one, **noise}))
    assert not any(d.supported for d in many.differences)
    assert "support none; not shown at this n: 6 of them" in many.sentence


def test_what_seeds_vary_is_said_of_a_checkpoint_too() -> None:
    """Its weights are the same for all seeds, so that its interval leaves out what another pre-training would give."""
    made = block({k: v for k, v in CLEAR.items() if k[1] != "dense"})
    assert "same checkpoint" not in findings(made)[0].sentence
    known = [dataclasses.replace(r, arm=dataclasses.replace(r.arm, start="pretrained")) for r in made[:4]]
    free = [dataclasses.replace(r, arm=dataclasses.replace(r.arm, source_counted=False)) for r in known]
    assert "every pretrained start is the same checkpoint" in findings(made + free)[0].sentence
    assert "same checkpoint" not in findings(made + known + free)[0].sentence


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_seeds_show_nothing_and_say_so(n: int) -> None:
    (finding,) = findings(block({k: v[:n] for k, v in CLEAR.items()}))
    assert not any(d.supported for d in finding.differences)
    assert f"n = {n} training" in finding.sentence
    assert "too few for an interval" in finding.sentence


def test_the_dense_network_of_equal_epochs_stands_in_every_budget() -> None:
    both = block(CLEAR) + [r for r in block(CLEAR, budget="16x") if r.arm.control != "dense"]
    found = blocks(both)
    assert [(b, f) for b, f, _ in found] == [("4x", "equal-epochs"), ("16x", "equal-epochs")]
    assert all(any(r.arm.control == "dense" for r in block_rows) for _, _, block_rows in found)


def test_budgets_that_are_not_equal_are_named() -> None:
    l1 = runs(Arm("untrained", "l1", "", "4x", "equal-epochs"), [0.8, 0.8, 0.8], macs=249_000)
    uniform = runs(Arm("untrained", "", "uniform-new", "4x", "equal-epochs"), [0.8, 0.8, 0.8], macs=243_000)
    assert rows([*l1, *uniform])[0].uneven == ("uniform-new",)
    assert (
        "the uniform network from new weights (whose MACs differ by more than 2 %)"
        in findings([*l1, *uniform])[0].sentence
    )
    near = [dataclasses.replace(r, macs=246_000) for r in uniform]
    assert rows([*l1, *near])[0].uneven == ()


def test_a_record_comes_back_from_its_file(tmp_path: Path) -> None:
    original = record(Arm("pretrained", "l1", "", "4x", "equal-compute", False), 3, 0.5)
    path = write(original, tmp_path)
    assert path.name.startswith("equal-compute_4x_pretrained--source-free_l1_seed3_")
    assert read([path]) == [original]
    data = json.loads(path.read_text())
    assert data["share"] == pytest.approx(0.249)
    assert data["spent"]["total"] == original.spent.total
    assert "latency" not in original.lasting()


@pytest.mark.parametrize("harm", ["truncate", "drop", "extra", "version"])
def test_a_damaged_record_is_one_clear_error(tmp_path: Path, harm: str) -> None:
    path = write(record(Arm("untrained", "l1", "", "4x", "equal-epochs"), 0, 0.5), tmp_path)
    data = json.loads(path.read_text())
    if harm == "truncate":
        path.write_text(path.read_text()[:-20])
    else:
        {
            "drop": lambda: data.pop("macs"),
            "extra": lambda: data.update(x=1),
            "version": lambda: data.update(version=2),
        }[harm]()
        path.write_text(json.dumps(data))
    with pytest.raises(ArtifactError, match=path.name):
        read([path])


def test_records_with_nan_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    bad = record(Arm("untrained", "l1", "", "4x", "equal-epochs"), 0, float("nan"))
    with pytest.raises(ValueError, match="JSON"):
        write(bad, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_every_run_has_a_file_name_of_its_own() -> None:
    names = {r.name for r in block(CLEAR) + block(CLEAR, fairness="equal-compute")}
    assert len(names) == 32
    assert isinstance(RunRecord.from_json(block(CLEAR)[0].to_json()), RunRecord)
