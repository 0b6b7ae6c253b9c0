"""The stage mechanism on toy stages: order, memory, identity, damage, failure, processes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_stages import Alone, Clamp, Fail, Number, Sum

from torchbonsai.core.errors import ConfigError, DataError
from torchbonsai.study.executor import Executor, InProcess, Workers
from torchbonsai.study.runner import Event
from torchbonsai.study.runner import run as run_open
from torchbonsai.study.stage import Stage, in_order, kind_of
from torchbonsai.study.store import DamagedStage, Done, Store
from torchbonsai.study.work import StageError, config_from_json


def run(stages: list[Stage], store: Store, executor: Executor, **more: Any) -> dict[str, Done]:
    """`runner.run`, with the executor closed afterwards."""
    try:
        return run_open(stages, store, executor, **more)
    finally:
        executor.close()


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def diamond(limit: int = 5) -> Stage:
    """2 and min(7, limit), summed."""
    return Stage(Sum(), {"a": Stage(Number(2)), "b": Stage(Clamp(limit), {"of": Stage(Number(7))})}, label="the sum")


def test_parents_run_before_children_and_equal_stages_once(tmp_path: Path) -> None:
    top, log = diamond(), tmp_path / "log"
    also = Stage(Sum(), {"a": Stage(Number(2))})
    assert [s.kind.name for s in in_order([top, also])] == [
        "toy-number", "toy-number", "toy-clamp", "toy-sum", "toy-sum",
    ]  # fmt: skip
    done = run([top, also], Store(tmp_path / "s"), InProcess(Store(tmp_path / "s")), places={"log": str(log)})
    assert done[top.spec].result == {"value": 7}
    assert done[also.spec].result == {"value": 2}
    assert lines(log) == ["number 2", "number 7", "clamp 5", "sum 7", "sum 2"]


def test_what_is_done_is_found_and_not_run_again(tmp_path: Path) -> None:
    store, log = Store(tmp_path / "s"), tmp_path / "log"
    first = run([diamond()], store, InProcess(store))
    events: list[Event] = []
    second = run([diamond()], store, InProcess(store), listener=events.append, places={"log": str(log)})
    assert lines(log) == []
    assert {e.what for e in events} == {"found"}
    assert [d.record for d in first.values()] == [d.record for d in second.values()]


def test_identity_is_the_parents_output_not_their_config(tmp_path: Path) -> None:
    store, log = Store(tmp_path / "s"), tmp_path / "log"
    run([diamond(limit=8)], store, InProcess(store))
    run([diamond(limit=9)], store, InProcess(store), places={"log": str(log)})  # min(7, 9) is 7 too
    assert lines(log) == ["clamp 9"]


def test_specs_that_come_to_one_key_are_run_once(tmp_path: Path) -> None:
    store, log = Store(tmp_path / "s"), tmp_path / "log"
    both = [diamond(limit=8), diamond(limit=9)]
    done = run(both, store, Workers(store, 2, modules=["toy_stages"]), places={"log": str(log)})
    assert lines(log).count("sum 9") == 1
    assert done[both[0].spec].key == done[both[1].spec].key


def test_tensors_come_back_and_a_flipped_bit_is_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    top = diamond()
    done = run([top], store, InProcess(store))[top.spec]
    expected = torch.rand(7, generator=torch.Generator().manual_seed(7))
    assert torch.equal(done.tensors()["t"], expected)
    file = done.folder / "tensors.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with pytest.raises(DamagedStage, match=r"tensors\.safetensors"):
        store.load(done.key)


@pytest.mark.parametrize("harm", ["truncate", "edit", "empty", "no tensors", "not text"])
def test_a_damaged_stage_is_reported_and_run_again_to_the_same_record(tmp_path: Path, harm: str) -> None:
    store, top = Store(tmp_path), diamond()
    done = run([top], store, InProcess(store))[top.spec]
    record = done.folder / "record.json"
    text = record.read_text()
    if harm == "truncate":
        record.write_text(text[: len(text) // 2])
    elif harm == "edit":
        record.write_text(text.replace('"value": 7', '"value": 8'))
    elif harm == "empty":
        record.write_text("")
    elif harm == "not text":
        record.write_bytes(b"\xff\xfe\xfd")
    else:
        (done.folder / "tensors.safetensors").unlink()
    events: list[Event] = []
    again = run([top], store, InProcess(store), listener=events.append)[top.spec]
    assert [e.what for e in events].count("damaged") == 1
    assert again.digest == done.digest
    assert json.loads(record.read_text())["result"] == {"value": 7}


def test_the_version_of_the_handler_is_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from torchbonsai.study import store as store_module
    from torchbonsai.study.store import key_of

    kind = kind_of(Sum())
    key = key_of(kind, Sum(), {"a": "1"})
    assert key != key_of(replace(kind, version=2), Sum(), {"a": "1"})
    assert key != key_of(kind, Sum(), {"b": "1"})
    assert key != key_of(kind, Sum(1.0), {"a": "1"})
    monkeypatch.setattr(store_module, "versions", lambda: {"torch": "9.9"})
    assert key != key_of(kind, Sum(), {"a": "1"})


@pytest.mark.parametrize(
    ("workers", "how", "error", "text"),
    [
        (0, "expected", DataError, "the file must be whole"),
        (0, "unforeseen", StageError, "nobody foresaw this"),
        (1, "expected", DataError, "the file must be whole"),
        (1, "unforeseen", StageError, "nobody foresaw this"),
    ],
)
def test_a_failing_stage_ends_the_run_with_one_named_error(
    tmp_path: Path, workers: int, how: str, error: type[Exception], text: str
) -> None:
    store = Store(tmp_path)
    good = Stage(Number(1))
    bad = Stage(Fail(how), {"of": good}, label="the bad one")
    child = Stage(Sum(), {"a": bad})
    executor = Workers(store, workers, modules=["toy_stages"]) if workers else InProcess(store)
    with pytest.raises(error, match="in the bad one") as caught:
        run([child], store, executor)
    assert text in str(caught.value)
    assert run([good], store, InProcess(store))[good.spec].result == {"value": 1}
    assert [p.parent.name.split("-")[1] for p in tmp_path.glob("*/record.json")] == ["number"]


def test_a_worker_that_dies_is_an_error_and_leaves_no_record(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(StageError, match="exit code 9"):
        run([Stage(Fail("die"), label="x")], store, Workers(store, 1, modules=["toy_stages"]))
    assert list(tmp_path.glob("*/record.json")) == []


def test_workers_give_what_this_process_gives(tmp_path: Path) -> None:
    alone, shared = Store(tmp_path / "a"), Store(tmp_path / "b")
    top = Stage(Sum(), {"x": diamond(3), "y": diamond(4)})
    events: list[Event] = []
    here = run([top], alone, InProcess(alone))
    there = run([top], shared, Workers(shared, 2, modules=["toy_stages"]), listener=events.append)
    assert {k: (d.key, d.digest) for k, d in here.items()} == {k: (d.key, d.digest) for k, d in there.items()}
    assert "half-way" in {e.progress[2] for e in events if e.progress}
    assert events[-1].done == events[-1].of == len(here)


def test_stages_that_measure_time_run_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    slow = [Stage(Sum(seconds=0.2), {"a": Stage(Number(n))}) for n in (1, 2, 3)]
    measured = [Stage(Alone(name)) for name in "ab"]
    overlap: list[bool] = []
    running: set[str] = set()

    def listener(event: Event) -> None:
        if event.what == "started":
            running.add(event.stage.spec)
        elif event.what == "done":
            running.discard(event.stage.spec)
        measuring = [s for s in measured if s.spec in running]
        overlap.append(bool(measuring) and len(running) > 1)

    run([*measured, *slow], store, Workers(store, 2, modules=["toy_stages"]), listener=listener)
    assert len(overlap) >= 16
    assert not any(overlap)


def test_more_is_asked_before_anything_runs_alone_and_before_the_end(tmp_path: Path) -> None:
    store, log = Store(tmp_path / "s"), tmp_path / "log"
    first, timed = Stage(Sum(), {"a": Stage(Number(1))}), Stage(Alone("timing"))
    seen: set[str] = set()

    def more() -> list[Stage]:
        second = Stage(Sum(), {"a": first, "b": Stage(Number(2))})
        third = Stage(Sum(), {"a": second, "b": Stage(Number(3))})
        return [s for s, before in ((second, first), (third, timed)) if before.spec in seen]

    def listener(event: Event) -> None:
        if event.output is not None:
            seen.add(event.stage.spec)

    for expected in (["number 1", "sum 1", "number 2", "sum 3", "alone timing", "number 3", "sum 6"], []):
        seen.clear()
        log.unlink(missing_ok=True)
        done = run([timed, first], store, InProcess(store), listener=listener, places={"log": str(log)}, more=more)
        assert [" ".join(line.split()[:2]) for line in lines(log)] == expected
        assert sorted(d.result.get("value", 0) for d in done.values()) == [0, 1, 1, 2, 3, 3, 6]


def test_a_worker_without_work_asks_for_more_while_another_runs(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    slow = Stage(Sum(seconds=1.0), {"a": Stage(Number(1))})
    extra = Stage(Sum(), {"a": Stage(Number(2))})
    ended: list[Stage] = []

    def listener(event: Event) -> None:
        if event.what == "done":
            ended.append(event.stage)

    run([slow], store, Workers(store, 2, modules=["toy_stages"]), listener=listener, more=lambda: [extra])
    assert [stage.kind.name for stage in ended].count("toy-sum") == 2
    assert ended[-1] is slow, "what was added ran beside it, not after it"


def test_two_processes_never_run_the_same_stage(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    log = tmp_path / "log"
    stage = Stage(Sum(seconds=0.3), {"a": Stage(Number(4))})

    def one() -> str:
        store = Store(tmp_path / "s")
        executor = Workers(store, 1, modules=["toy_stages"])
        return run([stage], store, executor, places={"log": str(log)})[stage.spec].digest

    with ThreadPoolExecutor(2) as pool:
        digests = [f.result() for f in [pool.submit(one), pool.submit(one)]]
    assert digests[0] == digests[1]
    assert lines(log).count("sum 4") == 1


def test_an_interrupt_ends_the_workers_at_once(tmp_path: Path) -> None:
    store, interrupted = Store(tmp_path), []

    def listener(event: Event) -> None:
        if event.what == "progress":
            interrupted.append(time.monotonic())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([Stage(Sum(seconds=60))], store, Workers(store, 1, modules=["toy_stages"]), listener=listener)
    assert time.monotonic() - interrupted[0] < 30
    assert list(tmp_path.glob("*/record.json")) == []


def test_configs_are_read_strictly() -> None:
    kind = kind_of(Number(1))
    assert config_from_json(kind, {"value": 3}) == Number(3)
    with pytest.raises(ConfigError, match="extra"):
        config_from_json(kind, {"value": 3, "other": 1})
    with pytest.raises(ConfigError, match="registered"):
        kind_of(object())
