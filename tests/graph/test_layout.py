"""Ops that move channels: labels follow the elements, and what is removed through them equals the masked network."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torchbonsai as tb
from torchbonsai.testing import check_surgery

HALF = {"shares": (0.5,), "seeds": (0, 1)}
ORDER = [4, 1, 0, 3, 2, 5, 11, 10, 9, 8, 7, 6]


def read_by_after(graph):
    """For every input position of the reader, the atom of `before` that it reads."""
    return graph.axes["after.weight"][1].tolist()


# what the reader's input positions must be, as positions of the producer (12 channels)
MOVES = {
    "permute and back": (lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2), range(12)),
    "transpose and back": (lambda x: x.transpose(1, 3).transpose(1, 3), range(12)),
    "flip": (lambda x: x.flip(1), range(11, -1, -1)),
    "flip of a picture": (lambda x: x.flip(2, 3), range(12)),
    "squeeze and unsqueeze": (lambda x: x.unsqueeze(1).squeeze(1), range(12)),
    "expand": (lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, 8, 8), range(12)),
    "cat": (lambda x: torch.cat([x, x], 1), [*range(12), *range(12)]),
    "cat of pictures": (lambda x: torch.cat([x, x], 2), range(12)),
    "stack and flatten": (lambda x: torch.stack([x, x], 1).flatten(1, 2), [*range(12), *range(12)]),
    "stack behind": (lambda x: torch.stack([x, x], 2).flatten(1, 2), [c for c in range(12) for _ in (0, 1)]),
    "repeat": (lambda x: x.repeat(1, 2, 1, 1), [*range(12), *range(12)]),
    "repeat interleave": (lambda x: x.repeat_interleave(2, 1), [c for c in range(12) for _ in (0, 1)]),
    "pixel unshuffle": (lambda x: F.pixel_unshuffle(x, 2), [c for c in range(12) for _ in range(4)]),
    "space to depth": (
        lambda x: torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1),
        [*range(12)] * 4,
    ),
    "unfold": (lambda x: F.unfold(x, 2).reshape(x.shape[0], -1, 7, 7), [c for c in range(12) for _ in range(4)]),
    "unbind": (lambda x: torch.stack(x.unbind(2), 2), range(12)),
    "roll of a picture": (lambda x: torch.roll(x, 1, 2), range(12)),
    "diagonal": (lambda x: x.diagonal(0, 2, 3)[..., None], range(12)),
    "narrow of a picture": (lambda x: x.narrow(2, 1, 5), range(12)),
    "index of a picture": (lambda x: x[:, :, torch.tensor([3, 1, 1])], range(12)),
    "pad of a picture": (lambda x: F.pad(x, (1, 1, 2, 0)), range(12)),
    "view by shape": (lambda x: x.view(x.shape[0], 2, -1, 8, 8).flatten(1, 2), range(12)),
}


@pytest.mark.parametrize("name", MOVES)
def test_labels_follow_the_elements(around, pictures, name):
    move, expected = MOVES[name]
    model = around(lambda self, x: move(x))
    graph = tb.trace(model, pictures)
    produced = graph.axes["before.weight"][0]
    assert read_by_after(graph) == [int(produced[c]) for c in expected]
    assert not graph.groups[0].inexact
    check_surgery(model, pictures, **HALF)


@pytest.mark.parametrize(
    "name", ["permute and back", "flip", "cat", "stack behind", "repeat interleave", "pixel unshuffle", "unfold"]
)
def test_most_moves_tie_nothing(around, pictures, name):
    graph = tb.trace(around(lambda self, x: MOVES[name][0](x)), pictures)
    assert graph.by_name["before"].size == 12


def shuffle(x):
    n, c, h, w = x.shape
    return x.view(n, 3, c // 3, h, w).transpose(1, 2).reshape(n, c, h, w)


REGROUPED = {
    "channel shuffle": (shuffle, 4),
    "pixel shuffle": (lambda x: F.pixel_shuffle(x, 2), 3),
    "native channel shuffle": (lambda x: F.channel_shuffle(x, 3), 4),
    "maximum of two halves": (lambda x: torch.maximum(*x.chunk(2, 1)), 6),
    "glu": (lambda x: F.glu(x, 1), 6),
    "glu by hand": (lambda x: x[:, : x.shape[1] // 2] * x[:, x.shape[1] // 2 :].sigmoid(), 6),
}


@pytest.mark.parametrize("name", REGROUPED)
def test_regrouped_channels_leave_together(around, pictures, name):
    """`atoms`: the most that can be kept apart, by hand."""
    move, atoms = REGROUPED[name]
    model = around(lambda self, x: move(x))
    graph = tb.trace(model, pictures)
    assert graph.n_atoms == atoms
    assert not any(f.name == "before" for f in graph.frozen)
    check_surgery(model, pictures, **HALF)


def test_chunks_of_equal_size_shrink_alike(around, pictures):
    model = around(lambda self, x: torch.cat([p.relu() if k else p.tanh() for k, p in enumerate(x.chunk(3, 1))], 1))
    graph = tb.trace(model, pictures)
    assert graph.n_atoms == 4
    check_surgery(model, pictures, **HALF)


def test_single_channels_at_literal_places_are_frozen_alone(around, pictures):
    """Channels 0 and 3 are read by their numbers; the others stay free, if the numbers hold."""
    model = around(lambda self, x: x * x[:, 0:1].sigmoid())
    graph = tb.trace(model, pictures)
    kept = graph.axes.get("before.weight", {}).get(0)
    assert kept is None or kept[0] == -1
    if graph.n_atoms:
        check_surgery(model, pictures, **HALF)


def test_pad_on_channels_makes_positions_that_shrink_with_an_attribute(net, pictures):
    model = net(
        lambda self, x: self.c((F.pad(self.a(x), (0, 0, 0, 0, self.more, 0)) + self.b(x)).relu()),
        a=nn.Conv2d(3, 5, 1), b=nn.Conv2d(3, 9, 1), c=nn.Conv2d(9, 2, 1), more=4,
    )  # fmt: skip
    graph = tb.trace(model, pictures)
    assert {g.name: g.size for g in graph.groups} == {"a": 5, "b": 4}
    cut = check_surgery(model, pictures, **HALF)[0]
    assert cut.small.more + cut.small.a.out_channels == cut.small.b.out_channels
    assert model.more == 4


def test_places_from_the_input_freeze(net, pictures):
    def forward(self, x):
        best = x.mean((1, 2, 3)).argsort()[:1]
        return self.b(self.a(x).index_select(1, best))

    model = net(forward, a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(1, 2, 1))
    graph = tb.trace(model, pictures)
    assert graph.groups == ()
    assert "depend on the input" in graph.frozen[0].reason


def test_memory_by_strides_is_frozen(around, pictures):
    model = around(lambda self, x: x.contiguous().as_strided(x.shape, x.stride()))
    graph = tb.trace(model, pictures)
    assert "before" not in graph.by_name


@pytest.mark.parametrize("assign", ["slices", "copy", "masked"])
def test_writes_into_views(around, pictures, assign):
    """A part that is written by position: either it goes exactly or it stays."""

    def forward(self, x):
        y = torch.zeros_like(x)
        half = x.shape[1] // 2
        if assign == "slices":
            y[:, :half] = x[:, half:]
            y[:, half:] = x[:, :half]
        elif assign == "copy":
            y.copy_(x)
        else:
            y[:] = torch.where(x > 0, x, y)
        return y

    model = around(forward)
    graph = tb.trace(model, pictures)
    if graph.n_atoms:
        check_surgery(model, pictures, **HALF)
    assert graph.n_atoms or any(f.name == "before" and f.source for f in graph.frozen)


@pytest.mark.parametrize("seed", range(4))
def test_chains_of_random_moves(around, pictures, seed):
    generator = torch.Generator().manual_seed(seed)
    safe = [MOVES[n][0] for n in ("flip", "cat", "repeat interleave", "permute and back", "roll of a picture")]
    chosen = [safe[int(torch.randint(len(safe), (), generator=generator))] for _ in range(3)]

    def forward(self, x):
        for move in chosen:
            x = move(x)
        return x

    model = around(forward)
    assert tb.trace(model, pictures).by_name["before"].size == 12
    check_surgery(model, pictures, **HALF)
