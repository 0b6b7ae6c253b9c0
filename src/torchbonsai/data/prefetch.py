"""Batches of a data set that does not fit: gathered by a thread while the device computes on the one before.

Such a set is a tensor all the same, usually a file mapped into memory (`data.on_disk`), so that a split needs no
second kind. What fits is moved to the device once, and nothing is fetched at all.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from torchbonsai.data.splits import Split

Key = TypeVar("Key")
Value = TypeVar("Value")
SHARE = 0.5
"""Of a device's memory, what images may take; the rest is for weights, activations and other processes."""


def fits(split: Split, device: torch.device) -> bool:
    """Whether the images may stay in the device's memory for good: they are there, or take at most half of it."""
    if split.x.device == device and device.type != "cpu":
        return True
    if device.type == "cuda":
        memory = torch.cuda.mem_get_info(device)[0]
    else:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 1 << 62
    return split.x.numel() <= SHARE * memory


def gathered(split: Split, chunks: Iterable[Tensor], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """(images, classes) on `device` for each chunk of row numbers; gathered ahead where `split` does not fit.

    chunks: on the split's device. Which way it goes changes no bit.
    """

    def fetch(chunk: Tensor) -> tuple[Tensor, Tensor]:
        return split.x.index_select(0, chunk), split.y.index_select(0, chunk)

    if split.x.device == device and fits(split, device):
        yield from map(fetch, chunks)
        return
    cuda = device.type == "cuda"

    def pinned(chunk: Tensor) -> tuple[Tensor, Tensor]:
        x, y = fetch(chunk)
        return (x.pin_memory(), y.pin_memory()) if cuda else (x, y)

    for x, y in prefetched(pinned, chunks):
        yield x.to(device, non_blocking=cuda), y.to(device, non_blocking=cuda)


def prefetched(fetch: Callable[[Key], Value], keys: Iterable[Key], ahead: int = 2) -> Iterator[Value]:
    """fetch(key) for each of `keys`, in order, at most `ahead` results before they are asked for, by one thread.

    What `fetch` raises is raised here, in its place in the order. A reader that stops early ends the thread.
    """
    results: queue.Queue[tuple[Value] | BaseException | None] = queue.Queue(ahead)
    stop = threading.Event()

    def give(item: tuple[Value] | BaseException | None) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                results.put(item, timeout=0.1)
                break

    def work() -> None:
        try:
            for key in keys:
                if stop.is_set():
                    return
                give((fetch(key),))
        except BaseException as error:  # noqa: BLE001  raised again where the value is waited for
            give(error)
        give(None)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := results.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item[0]
    finally:
        stop.set()
        thread.join()
