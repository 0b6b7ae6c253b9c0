"""Widths baked into Python: repaired by an attribute, tied into equal parts, or frozen with op and line."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torchbonsai as tb
from torchbonsai.testing import check_surgery

HALF = {"shares": (0.5,), "seeds": (0, 1)}


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 5, 1)
        self.setup()

    def setup(self):
        pass


def edited(cut):
    """Attributes of the network itself, not of its layers."""
    return {e.attribute: e.new for e in cut.plan.edits if e.module == ""}


class AttributeView(Base):
    def setup(self):
        self.width = 12

    def forward(self, x):
        n, _, h, w = x.shape
        return self.b(self.a(x).reshape(n, self.width, h * w).reshape(n, self.width, h, w))


class AttributeSplit(Base):
    def setup(self):
        self.sizes = [5, 7]

    def forward(self, x):
        left, right = torch.split(self.a(x), self.sizes, 1)
        return self.b(torch.cat([left.relu(), right.tanh()], 1))


class AttributePad(Base):
    def setup(self):
        self.a, self.extra = nn.Conv2d(3, 8, 1), 4

    def forward(self, x):
        return self.b(F.pad(self.a(x), (0, 0, 0, 0, 0, self.extra)).relu())


class AttributeStart(Base):
    def setup(self):
        self.part = 5

    def forward(self, x):
        x = self.a(x)
        return self.b(torch.cat([x[:, : self.part].relu(), x[:, self.part :]], 1))


@pytest.mark.parametrize("kind", [AttributeView, AttributeSplit, AttributePad, AttributeStart])
def test_a_width_in_an_attribute_is_repaired(kind, pictures):
    model = kind().eval()
    assert not any(f.name == "a" for f in tb.trace(model, pictures).frozen)
    for cut in check_surgery(model, pictures, **HALF):
        assert cut.small.a.out_channels < model.a.out_channels
    before = {k: v for k, v in vars(kind().eval()).items() if isinstance(v, int | list)}
    assert {k: v for k, v in vars(model).items() if isinstance(v, int | list)} == before


class StrideLikePads(Base):
    """Three numbers of one size, of which two are widths."""

    def setup(self):
        self.a, self.wide, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1)
        self.stride, self.before, self.after = 2, 2, 2

    def forward(self, x):
        step = self.stride
        padded = F.pad(self.a(x)[:, :, ::step, ::step], (0, 0, 0, 0, self.before, self.after))
        return self.b((padded + self.wide(x)[:, :, ::step, ::step]).relu())


class StrideLikePadsBefore(StrideLikePads):
    """A wrong guess at all three passes the op that pads, and fails at the next."""

    def forward(self, x):
        step = self.stride
        padded = F.pad(self.a(x), (0, 0, 0, 0, self.before, self.after))[:, :, ::step, ::step]
        return self.b((padded + self.wide(x)[:, :, ::step, ::step]).relu())


@pytest.mark.parametrize("kind", [StrideLikePads, StrideLikePadsBefore])
def test_numbers_that_are_as_large_as_a_width_by_chance_stay(kind, pictures):
    """wide's channels 0, 1 and 6, 7 are beside the padding, 2 to 5 beside a's four."""
    model = kind().eval()
    assert sorted(g.size for g in tb.trace(model, pictures).groups) == [4, 4]
    pads = set()
    for cut in check_surgery(model, pictures, shares=(0.25, 0.5), seeds=range(6)):
        kept = cut.plan.kept["b.weight"][1]
        pads.add((int((kept < 2).sum()), int((kept > 5).sum())))
        small = cut.small
        assert (small.stride, small.before, small.after) == (2, int((kept < 2).sum()), int((kept > 5).sum()))
    assert len(pads) > 3, "else this test shows little"


def test_the_repair_is_listed_and_right(pictures):
    model = AttributeSplit().eval()
    cut = check_surgery(model, pictures, **HALF)[0]
    sizes = edited(cut)["sizes"]
    left = int((cut.plan.kept["a.weight"][0] < 5).sum())
    assert list(sizes) == [left, cut.small.a.out_channels - left]
    assert cut.small.sizes == list(sizes)


class LiteralView(Base):
    def forward(self, x):
        x = self.a(x)
        return self.b(x.view(x.shape[0], 12, 8, 8))


class LiteralSplit(Base):
    def forward(self, x):
        left, right = torch.split(self.a(x), [5, 7], 1)
        return self.b(torch.cat([left.relu(), right], 1))


class LiteralSlice(Base):
    def setup(self):
        self.b = nn.Conv2d(5, 5, 1)

    def forward(self, x):
        return self.b(self.a(x)[:, 2:7])


class LiteralRoll(Base):
    def forward(self, x):
        return self.b(torch.roll(self.a(x), 5, 1))


class LiteralPad(Base):
    def setup(self):
        self.c = nn.Conv2d(3, 16, 1)
        self.b = nn.Conv2d(16, 5, 1)

    def forward(self, x):
        return self.b(F.pad(self.a(x), (0, 0, 0, 0, 2, 2)) + self.c(x))


@pytest.mark.parametrize("kind", [LiteralView, LiteralSplit, LiteralSlice, LiteralRoll, LiteralPad])
def test_a_literal_width_is_never_silently_wrong(kind, pictures):
    """What cannot be followed is frozen with the line; what still goes is exact."""
    model = kind().eval()
    graph = tb.trace(model, pictures)
    for f in graph.frozen:
        assert f.reason == "it is an output of the model" or f.source.file == __file__
    if graph.n_atoms:
        check_surgery(model, pictures, **HALF)


def test_a_literal_view_is_frozen_with_its_line(pictures):
    graph = tb.trace(LiteralView().eval(), pictures)
    frozen = next(f for f in graph.frozen if f.name == "a")
    assert frozen.size == 12
    assert frozen.source.code == "return self.b(x.view(x.shape[0], 12, 8, 8))"
    assert frozen.source.op == "aten.view.default"
    assert "baked into the code" in frozen.reason


def test_nothing_is_left_to_prune(pictures):
    with pytest.raises(tb.BudgetError, match="every channel is frozen"):
        tb.prune(LiteralView().eval(), pictures, budget=tb.Budget(channels=0.5))


class Halves(Base):
    def setup(self):
        self.b = nn.Conv2d(6, 5, 1)

    def forward(self, x):
        gate, value = self.a(x).chunk(2, 1)
        return self.b(gate.sigmoid() * value)


def test_chunks_are_tied_position_by_position(pictures):
    model = Halves().eval()
    graph = tb.trace(model, pictures)
    assert [g.size for g in graph.groups] == [6]
    cut = check_surgery(model, pictures, **HALF)[0]
    first, second = cut.plan.kept["a.weight"][0].reshape(2, -1)
    assert (second - first == 6).all()


class Branching(Base):
    def forward(self, x):
        x = self.a(x)
        return self.b(x.relu() if x.shape[1] > 9 else x.tanh())


def test_a_branch_on_the_width_holds_where_it_would_turn(pictures):
    model = Branching().eval()
    result = tb.prune(model, pictures, budget=tb.Budget(channels=0.9), criterion=tb.criteria.Random(0))
    assert result.verification.exact
    assert result.model.a.out_channels > 9
    with pytest.raises(tb.BudgetError):
        tb.prune(model, pictures, budget=tb.Budget(channels=0.25), criterion=tb.criteria.Random(0))


class Shuffled(nn.Module):
    """A stage of a ShuffleNet: half of the channels pass, half are convolved, then all are shuffled; n times."""

    def __init__(self, before, half, units):
        super().__init__()
        self.left, self.right = nn.Conv2d(before, half, 1), nn.Conv2d(before, half, 1)
        self.units = nn.ModuleList(nn.Conv2d(half, half, 3, padding=1) for _ in range(units))

    def forward(self, x):
        x = self.mixed(self.left(x).relu(), self.right(x).relu())
        for unit in self.units:
            same, other = x.chunk(2, 1)
            x = self.mixed(same, unit(other).relu())
        return x

    @staticmethod
    def mixed(a, b):
        x = torch.cat([a, b], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def test_an_assumption_that_fails_in_one_stage_is_no_reason_to_freeze_another(pictures):
    """Equal halves, shuffled and halved again: 6 channels end in one atom, 16 in two at least."""
    torch.manual_seed(0)
    model = nn.Sequential(Shuffled(3, 6, 3), Shuffled(12, 16, 3), nn.Conv2d(32, 5, 1)).eval()
    graph = tb.trace(model, pictures)
    assert {f.name.split(".")[0] for f in graph.frozen} == {"0", "2"}
    assert all(g.size > 1 for g in graph.groups)
    for cut in check_surgery(model, pictures, **HALF):
        assert cut.small.get_submodule("1.units.2").out_channels < 16


FILLS = {
    "as wide as another": lambda x: torch.cat([x, x.new_zeros(x.shape)], 1),
    "by its sizes": lambda x: torch.cat([x.new_ones(x.shape[0], x.shape[1], 8, 8), x.relu()], 1),
    "twice as wide": lambda x: torch.cat([x, x, x.new_zeros(x.shape[0], 2 * x.shape[1], 8, 8)], 1),
}


@pytest.mark.parametrize("name", FILLS)
def test_a_fill_as_wide_as_something_else_shrinks_with_it(name, pictures):
    class Filled(Base):
        def setup(self):
            self.b = nn.Conv2d(48 if "twice" in name else 24, 5, 1)

        def forward(self, x):
            return self.b(FILLS[name](self.a(x)))

    torch.manual_seed(0)
    for cut in check_surgery(Filled().eval(), pictures, **HALF):
        assert cut.small.a.out_channels < 12
