"""What must hold of every selection, on random graphs, scores and budgets; checked against brute force."""

import itertools
from fractions import Fraction

import numpy as np
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from torchbonsai.core.errors import BudgetError
from torchbonsai.cost.macs import CostModel
from torchbonsai.graph.channel_graph import ChannelGraph, ChannelGroup, Product
from torchbonsai.selection.budget import Budget, nearest
from torchbonsai.selection.select import select

sizes_of = st.lists(st.integers(1, 9), min_size=1, max_size=4)


def dense_chain(sizes):
    """Layers in a row, one group each: layer i costs sizes[i - 1] · sizes[i] MACs and parameters."""
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
    extents = [np.full(3, -1), *(np.arange(a, b) for a, b in itertools.pairwise(offsets))]
    groups = tuple(ChannelGroup(f"g{i}", n, int(offsets[i]), ()) for i, n in enumerate(sizes))
    pairs = list(zip(extents[1:], extents[:-1], strict=True))
    axes = {f"g{i}.weight": {0: out} | ({1: into} if i else {}) for i, (out, into) in enumerate(pairs)}
    shapes = {f"g{i}.weight": (len(out), len(into)) for i, (out, into) in enumerate(pairs)}
    products = tuple(Product("mm", f"g{i}", 1, pair) for i, pair in enumerate(pairs))
    return ChannelGraph(groups, (), shapes, axes, frozenset(shapes), products)


def random_scores(graph, seed, levels):
    """Few levels, so that ties are common."""
    generator = torch.Generator().manual_seed(seed)
    return {g.name: torch.randint(0, levels, (g.size,), generator=generator).double() for g in graph.groups}


def leaving_order(graph, scores, normalise):
    """Atoms by (score, group, channel), spelled out."""
    keyed = []
    for number, group in enumerate(graph.groups):
        values = scores[group.name]
        mean = values.abs().mean() if normalise else 1.0
        across = values / mean if mean > 0 else values
        keyed += [(float(across[c]), number, c, group.offset + c) for c in range(group.size)]
    return [atom for *_, atom in sorted(keyed)]


@settings(max_examples=150, deadline=None)
@given(sizes_of, st.integers(0, 99), st.integers(1, 6), st.floats(0.02, 1), st.integers(1, 4), st.integers(1, 4))
def test_global_is_maximal(sizes, seed, levels, share, round_to, min_channels):
    graph = dense_chain(sizes)
    model, scores = CostModel(graph), random_scores(graph, seed, levels)
    options = {"round_to": round_to, "min_channels": min_channels}
    try:
        kept = graph.keep(select(graph, scores, Budget(macs=share), **options))
    except BudgetError:
        floor = [min(n, -(-min_channels // round_to) * round_to) for n in sizes]
        narrow = graph.keep({g.name: np.arange(g.size) < n for g, n in zip(graph.groups, floor, strict=True)})
        assert model.of(narrow).macs > Fraction(repr(share)) * model.dense.macs
        return
    limit = Fraction(repr(share)) * model.dense.macs
    assert model.of(kept).macs <= limit
    order = leaving_order(graph, scores, normalise=True)
    back = best_removed_unit(graph, kept, order, round_to)
    if back is not None:
        more = kept.copy()
        more[back] = True
        assert model.of(more).macs > limit


def best_removed_unit(graph, kept, order, round_to):
    """The removed unit (up to the next multiple, or to the dense count) whose worst channel ranks best."""
    when = {atom: i for i, atom in enumerate(order)}
    units = []
    for group in graph.groups:
        gone = [a for a in order if group.offset <= a < group.offset + group.size and not kept[a]]
        size = min(round_to, len(gone))
        if gone:
            unit = gone[-size:]
            units.append((min(when[a] for a in unit), unit))
    return max(units)[1] if units else None


@settings(max_examples=150, deadline=None)
@given(sizes_of, st.integers(0, 99), st.floats(0.02, 1), st.integers(1, 3), st.integers(1, 3))
def test_uniform_is_one_share_and_the_largest(sizes, seed, share, round_to, min_channels):
    graph = dense_chain(sizes)
    model, scores = CostModel(graph), random_scores(graph, seed, 4)
    limit = Fraction(repr(share)) * model.dense.macs

    def widths_at(s):
        made = []
        for n in sizes:
            floor = min(n, -(-min_channels // round_to) * round_to)
            w = min(n, max(min_channels, nearest(s, n)))
            made.append(n if w == n else max(floor, w // round_to * round_to))
        return made

    def macs(widths):
        return sum(a * b for a, b in zip([3, *widths[:-1]], widths, strict=True))

    shares = sorted({Fraction(2 * k - 1, 2 * n) for n in sizes for k in range(1, n + 1)} | {Fraction(0)})
    fitting = [s for s in shares if macs(widths_at(s)) <= limit]
    budget = Budget(macs=share)
    if not fitting:
        try:
            select(graph, scores, budget, scope="uniform", round_to=round_to, min_channels=min_channels)
        except BudgetError:
            return
        raise AssertionError("an unreachable budget was met")
    kept = select(graph, scores, budget, scope="uniform", round_to=round_to, min_channels=min_channels)
    assert [int(m.sum()) for m in kept.values()] == widths_at(max(fitting))
    assert model.of(graph.keep(kept)).macs == macs(widths_at(max(fitting)))


@settings(max_examples=100, deadline=None)
@given(sizes_of, st.integers(0, 99), st.integers(1, 6), st.floats(0.02, 1), st.sampled_from(["mean", None]))
def test_channels_share_removes_exactly_the_first_of_the_order(sizes, seed, levels, share, normalise):
    graph = dense_chain(sizes)
    scores = random_scores(graph, seed, levels)
    keep = nearest(Fraction(repr(share)), sum(sizes))
    assume(keep >= len(sizes))
    kept = graph.keep(select(graph, scores, Budget(channels=share), normalise=normalise))
    assert kept.sum() == keep
    order = leaving_order(graph, scores, normalise=normalise == "mean")
    last = {int(graph.group_of_atom[a]): a for a in order}  # the best of each group: the floor keeps it
    removable = [a for a in order if a not in last.values()]
    assert set(np.flatnonzero(~kept)) == set(removable[: sum(sizes) - keep])


@settings(max_examples=60, deadline=None)
@given(sizes_of, st.integers(0, 99), st.floats(0.02, 1), st.sampled_from(["global", "uniform"]))
def test_the_best_of_every_group_stay(sizes, seed, share, scope):
    graph = dense_chain(sizes)
    scores = random_scores(graph, seed, 5)
    try:
        kept = select(graph, scores, Budget(params=share), scope=scope)
    except BudgetError:
        return
    for name, mask in kept.items():
        values = scores[name].numpy()
        if not mask.all():
            assert values[mask].min() >= values[~mask].max()


amounts = st.one_of(st.none(), st.floats(0.02, 1), st.integers(1, 60))


@settings(max_examples=150, deadline=None)
@given(sizes_of, amounts, amounts, amounts, st.booleans(), st.sampled_from(["global", "uniform"]), st.integers(1, 3))
def test_all_budgets_hold_at_once(sizes, macs, params, channels, fix, scope, round_to):
    graph = dense_chain(sizes)
    widths = {"g0": (sizes[0] + 1) // 2} if fix else None
    assume(fix or any(a is not None for a in (macs, params, channels)))
    budget = Budget(macs=macs, params=params, channels=channels, widths=widths)
    model = CostModel(graph)
    try:
        selection = select(graph, random_scores(graph, 0, 9), budget, scope=scope, round_to=round_to)
    except BudgetError:
        return
    cost = model.of(graph.keep(selection))
    for name, amount in (("macs", macs), ("params", params)):
        limit = Fraction(repr(amount)) * getattr(model.dense, name) if isinstance(amount, float) else amount
        assert limit is None or getattr(cost, name) <= limit
    if isinstance(channels, int):
        assert cost.channels <= channels
    elif channels is not None and scope == "global":
        assert cost.channels <= nearest(Fraction(repr(channels)), sum(sizes))
    assert not fix or selection["g0"].sum() == widths["g0"]
    for size, mask, fixed in zip(sizes, selection.values(), [fix] + [False] * len(sizes), strict=False):
        assert fixed or mask.sum() == size or mask.sum() % round_to == 0


@settings(max_examples=60, deadline=None)
@given(sizes_of, st.floats(0.001, 1), st.integers(1, 4))
def test_a_uniform_channel_share_is_always_met_exactly(sizes, share, min_channels):
    graph = dense_chain(sizes)
    kept = select(graph, random_scores(graph, 0, 3), Budget(channels=share), scope="uniform", min_channels=min_channels)
    wanted = [min(n, max(min_channels, nearest(Fraction(repr(share)), n))) for n in sizes]
    assert [int(m.sum()) for m in kept.values()] == wanted
