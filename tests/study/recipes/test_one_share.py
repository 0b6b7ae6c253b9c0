"""One share of every layer, round after round: the widths that a uniform selection begins with, which only fall."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from tiny_recipes import followed, of
from torch import nn

import torchbonsai as tb
from torchbonsai.models.build import ModelConfig
from torchbonsai.selection.select import select
from torchbonsai.study.stages.network import Network
from torchbonsai.study.stages.prune import one_share

SIZES = st.lists(st.integers(1, 70), min_size=1, max_size=4)
ROUND_TO = st.sampled_from((1, 2, 3, 8, 16))
FLOOR = st.integers(1, 12)
SHARE = st.integers(1, 99).map(lambda percent: percent / 100)


def network(sizes: list[int], now: list[int] | None = None) -> Network:
    dense = {str(n): size for n, size in enumerate(sizes)}
    widths = dict(zip(dense, now or sizes, strict=True))
    return Network(ModelConfig("lenet", (1, 28, 28), 10), 1, 1, 1, 1, widths, dense)


@given(SIZES, ROUND_TO, FLOOR, SHARE, st.integers(1, 8))
def test_widths_never_grow_and_are_multiples_above_the_floor(
    sizes: list[int], round_to: int, floor: int, goes: float, rounds: int
) -> None:
    now = list(sizes)
    for number in range(rounds):
        left = round((1 - goes) ** (number + 1), 9)
        widths = [*one_share(network(sizes, now), max(left, 1e-9), round_to, floor).values()]
        for width, before, size in zip(widths, now, sizes, strict=True):
            assert min(size, floor) <= width <= before
            assert width % round_to == 0 or width == size
            assert width <= max(left * size + 0.5, floor + round_to - 1), "no more than asked for, but for the floor"
        now = widths


@given(SIZES, SHARE, st.integers(1, 4))
def test_what_was_cut_narrower_stays_so(sizes: list[int], share: float, divisor: int) -> None:
    now = [max(1, size // divisor) for size in sizes]
    widths = one_share(network(sizes, now), share, 1, 1).values()
    assert all(width <= before for width, before in zip(widths, now, strict=True))


@given(st.lists(st.integers(2, 40), min_size=2, max_size=3), ROUND_TO, FLOOR, SHARE)
def test_the_first_round_is_that_of_a_uniform_selection(
    sizes: list[int], round_to: int, floor: int, share: float
) -> None:
    layers = [nn.Linear(a, b) for a, b in zip([3, *sizes], [*sizes, 2], strict=True)]
    graph = tb.trace(nn.Sequential(*layers), torch.zeros(1, 3))
    scores = {g.name: torch.arange(g.size, dtype=torch.float64) for g in graph.groups}
    options = {"scope": "uniform", "round_to": round_to, "min_channels": floor}
    found = one_share(network(sizes), share, round_to, floor)
    # A floor that is rounded up may be over the share, which a selection counts as a limit and a width does not.
    assume(sum(found.values()) <= sum(min(n, max(floor, int(np.floor(share * n + 0.5)))) for n in sizes))
    kept = select(graph, scores, tb.Budget(channels=share), **options)  # type: ignore[arg-type]
    assert found == {name: int(mask.sum()) for name, mask in kept.items()}


def test_a_recipe_with_widths_of_a_multiple_goes_through_all_rounds(tmp_path: Path) -> None:
    """The second round asks for more of a group than the first, rounded down, has left; one of them cuts nothing."""
    short = {"start_epochs": 1, "source_epochs": 1, "rounds": 3, "round_epochs": 1, "limit_train": 32}
    rounded = {"model": "bonsai_small", "augment": (), "round_to": 8, "equal_compute": False}
    records = followed("pretraining-impact", tmp_path, **short, **rounded)
    for r in of(records, ""):
        dense, *cut = [[*point.widths.values()] for point in r.rounds]
        assert dense == [16, 16, 32, 32]
        assert cut == [[8, 8, 24, 24], [8, 8, 24, 24], [8, 8, 16, 16]]
