"""Batches ahead of the step that wants them: in order, no error lost, no thread left."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from torchbonsai.data import TrainSplit, prefetch
from torchbonsai.data.prefetch import fits, gathered, prefetched

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def test_in_order_and_at_most_so_many_ahead() -> None:
    fetched: list[int] = []
    values = prefetched(lambda key: fetched.append(key) or -key, range(20), ahead=2)
    for number, value in enumerate(values):
        assert value == -number
        assert len(fetched) <= number + 5  # given, two in the queue, one waiting for a place
    assert fetched == list(range(20))


def test_an_error_comes_in_its_place() -> None:
    values = prefetched(lambda key: 1 // (3 - key), range(10))
    assert [next(values) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(values)


def test_a_reader_that_stops_early_ends_the_thread() -> None:
    values = prefetched(lambda key: key, iter(range(10**9)))
    assert next(values) == 0
    values.close()


def test_a_file_mapped_into_memory_is_gathered_as_a_tensor_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randint(0, 256, (40, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (tmp_path / "images").write_bytes(x.numpy().tobytes())
    mapped = torch.from_file(str(tmp_path / "images"), shared=False, size=x.numel(), dtype=torch.uint8).view(x.shape)
    split, y = TrainSplit(mapped, torch.arange(40)), torch.arange(40)
    chunks = torch.randperm(40, generator=torch.Generator().manual_seed(1)).tensor_split(6)
    assert fits(split, CPU)
    monkeypatch.setattr(prefetch, "SHARE", 0.0)
    assert not fits(split, CPU)
    found = list(gathered(split, chunks, CPU))
    assert all(torch.equal(a, x[c]) and torch.equal(b, y[c]) for (a, b), c in zip(found, chunks, strict=True))
    assert len(found) == 6
