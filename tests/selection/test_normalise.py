"""Normalisers with numbers worked out by hand, and what must hold of all of them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_select import plain_graph, widths

from torchbonsai.core.errors import ConfigError, PruningError
from torchbonsai.selection.budget import Budget
from torchbonsai.selection.normalise import NORMALISERS, normalised
from torchbonsai.selection.select import select


def test_by_hand():
    graph = plain_graph(2, 3)
    scores = np.array([1.0, 3.0, 2.0, 4.0, 4.0])
    expected = {
        None: scores,
        "mean": [1 / 2, 3 / 2, 0.6, 1.2, 1.2],
        "sum": [1 / 4, 3 / 4, 0.2, 0.4, 0.4],
        "size": [1 / 2, 3 / 2, 2 / 3, 4 / 3, 4 / 3],
        "lamp": [1 / 10, 1, 4 / 36, 16 / 32, 16 / 32],  # squares over those at least as large: 1 + 9 | 4 + 16 + 16
    }
    assert expected.keys() - {None} == NORMALISERS.keys()
    for name, values in expected.items():
        assert normalised(graph, scores, name) == pytest.approx(np.array(values)), name


def test_what_leaves_first_depends_on_it():
    graph = plain_graph(2, 4)
    scores = {"g0": torch.tensor([3.0, 9.0]), "g1": torch.tensor([4.0, 4.5, 5.0, 5.5])}
    # none: g0's 3; mean: 3/6 and 4/4.75: g0; sum: 3/12 and 4/19: g1; size: 3/2 and 4/4: g1;
    # lamp: 9/90 and 16/(16 + 20.25 + 25 + 30.25) = 0.17: g0
    first = {n: widths(select(graph, scores, Budget(channels=5), normalise=n)) for n in (None, *NORMALISERS)}
    assert first == {None: [1, 4], "mean": [1, 4], "sum": [2, 3], "size": [2, 3], "lamp": [1, 4]}


def test_uniform_does_not_ask():
    graph = plain_graph(2, 4)
    scores = {"g0": torch.tensor([-3.0, 9.0]), "g1": torch.tensor([4.0, 4.5, 5.0, 5.5])}
    assert widths(select(graph, scores, Budget(channels=0.5), scope="uniform", normalise="lamp")) == [1, 2]
    with pytest.raises(PruningError, match="not negative"):
        select(graph, scores, Budget(channels=0.5), normalise="lamp")


def test_zeros_stay_zeros():
    for change in NORMALISERS.values():
        assert change(np.zeros(3)).tolist() == [0, 0, 0]


def test_an_unknown_one_is_named():
    with pytest.raises(ConfigError, match="'lamp'"):
        select(plain_graph(2), {"g0": torch.ones(2)}, Budget(channels=1), normalise="max")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=9), st.sampled_from(sorted(NORMALISERS)))
def test_order_within_a_group_is_kept(values, name):
    scores = np.array(values)
    found = NORMALISERS[name](scores)
    assert np.isfinite(found).all()
    assert (np.diff(found[np.argsort(scores, kind="stable")]) >= 0).all()
    for value in set(values):
        assert len(set(found[scores == value].tolist())) == 1
