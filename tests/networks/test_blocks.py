"""Channels in equal blocks: heads, groups, maxout. Whole blocks leave, or the same positions inside every block."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torchbonsai as tb
from torchbonsai.testing import check_surgery

HALF: dict[str, Any] = {"shares": (0.5,), "seeds": (0, 1)}


class Block(nn.Module):
    """A stem, an attention with a residual, batch norms (so that the rest is exact), a linear head."""

    def __init__(self, attention: nn.Module, dim: int = 24) -> None:
        super().__init__()
        self.stem, self.norm, self.attention = nn.Conv2d(3, dim, 4, 4), nn.BatchNorm1d(dim), attention
        self.head = nn.Linear(dim, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x).flatten(2)).transpose(1, 2)
        mha = isinstance(self.attention, nn.MultiheadAttention)
        y = self.attention(x, x, x, need_weights=False)[0] if mha else self.attention(x)
        return self.head((x + y).mean(1))


class Heads(nn.Module):
    """timm's form; `kind` says how the product is computed."""

    def __init__(self, dim: int, heads: int, kind: str, bias: bool = False) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.kind = heads, dim // heads, kind
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.bias = nn.Parameter(torch.randn(1, heads, 16, 16)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        if self.kind == "fused":
            y = F.scaled_dot_product_attention(q, k, v)
        elif self.kind == "linear":
            y = F.elu(q) @ (F.elu(k).transpose(-2, -1) @ v)
        else:
            scores = q @ k.transpose(-2, -1) * 0.3
            y = (scores if self.bias is None else scores + self.bias).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(b, n, self.num_heads * self.head_dim))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def sizes(graph: tb.prune) -> dict[str, int]:
    return {g.name: g.size for g in graph.groups}


@pytest.mark.parametrize("kind", ["fused", "written out", "linear"])
def test_whole_heads_leave_where_asked(kind: str, x: Tensor) -> None:
    """Nothing inside a head changes, so the scale does not either: exact."""
    torch.manual_seed(0)
    model = Block(Heads(24, 4, kind))
    assert sizes(tb.trace(model, x, blocks="whole"))["attention.qkv"] == 4
    for cut in check_surgery(model, x, blocks="whole", **HALF):
        small = cut.small.get_submodule("attention")
        assert small.head_dim == 6
        assert small.num_heads * 6 * 3 == small.qkv.out_features
        rows = cut.plan.kept["attention.qkv.weight"][0].reshape(3, -1, 6)
        assert (rows % 6 == torch.arange(6)).all()


def test_a_bias_a_head_leaves_with_its_head(x: Tensor) -> None:
    """Relative positions: along heads the scores carry labels only where whole heads leave."""
    torch.manual_seed(0)
    model = Block(Heads(24, 4, "written out", bias=True))
    cut = check_surgery(model, x, blocks={"attention": "whole"}, shares=(0.5,), seeds=(1,))[0]
    small = cut.small.get_submodule("attention")
    assert small.bias.shape == (1, small.num_heads, 16, 16)
    assert small.num_heads < 4


def test_positions_inside_heads_leave_by_default(x: Tensor) -> None:
    torch.manual_seed(0)
    wide, narrow = Block(Heads(24, 4, "written out")), Block(Heads(24, 8, "written out"))
    assert sizes(tb.trace(wide, x))["attention.qkv"] % 6 == 0, "4 heads of 6: the 6 are more to choose from"
    assert sizes(tb.trace(narrow, x))["attention.qkv"] == 8, "8 heads of 3: the heads are more"
    assert sizes(tb.trace(narrow, x, blocks="inside"))["attention.qkv"] % 3 == 0
    for model in (wide, narrow):
        check_surgery(model, x, **HALF)


def test_linear_attention_loses_whole_heads_since_every_position_meets_every_other(x: Tensor) -> None:
    torch.manual_seed(0)
    model = Block(Heads(24, 4, "linear"))
    assert sizes(tb.trace(model, x))["attention.qkv"] == 4
    check_surgery(model, x, **HALF)


class Literal(nn.Module):
    """The width of a head is a number in the code, the number of heads is not."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(24, 72), nn.Linear(24, 24)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, -1, 6).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def test_whole_heads_leave_where_the_width_of_a_head_is_baked_in(x: Tensor) -> None:
    torch.manual_seed(0)
    model = Block(Literal())
    graph = tb.trace(model, x)
    assert sizes(graph)["attention.qkv"] == 4
    assert [f.reason for f in graph.frozen] == ["it is an output of the model"]
    check_surgery(model, x, **HALF)


def test_multihead_attention_loses_whole_heads_with_its_attributes_right(x: Tensor) -> None:
    torch.manual_seed(0)
    model = Block(nn.MultiheadAttention(24, 4, batch_first=True))
    cut = check_surgery(model, x, blocks="whole", **HALF)[0]
    small: Any = cut.small.get_submodule("attention")
    assert small.head_dim == 6
    assert small.num_heads < 4
    assert small.embed_dim == small.num_heads * 6 == small.out_proj.out_features
    assert cut.small.get_submodule("stem").out_channels == small.embed_dim  # its width is its input's


class Maxout(nn.Module):
    """The largest of two neighbours."""

    def __init__(self, reduce: str = "amax") -> None:
        super().__init__()
        self.a, self.b, self.reduce = nn.Conv2d(3, 12, 1), nn.Conv2d(6, 5, 1), reduce

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        x = self.a(x)
        return self.b(getattr(x.reshape(n, x.shape[1] // 2, 2, h, w), self.reduce)(2))


@pytest.mark.parametrize("reduce", ["amax", "sum", "mean", "prod"])
def test_what_is_reduced_over_whole_blocks_is_exact(reduce: str, x: Tensor) -> None:
    model = Maxout(reduce).eval()
    graph = tb.trace(model, x)
    assert sizes(graph) == {"a": 6}
    for cut in check_surgery(model, x, **HALF):
        assert cut.small.get_submodule("a").out_channels == 2 * cut.small.get_submodule("b").in_channels


def test_a_statistic_inside_blocks_is_flagged_where_asked_for(x: Tensor) -> None:
    class Six(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 24, 1), nn.Conv2d(6, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).unflatten(1, (6, -1)).amax(2))

    graph = tb.trace(Six().eval(), x, blocks="inside")
    assert sizes(graph) == {"a": 4}
    assert graph.groups[0].inexact


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("groups", "blocks"), [(6, None), (3, "whole")])
def test_whole_groups_of_a_group_norm_are_exact(groups: int, blocks: Any, affine: bool, x: Tensor) -> None:
    norm = nn.GroupNorm(groups, 12, affine=affine)
    model = nn.Sequential(nn.Conv2d(3, 12, 1), norm, nn.ReLU(), nn.Conv2d(12, 5, 1)).eval()
    with torch.no_grad():
        for p in norm.parameters():
            p.normal_()
    graph = tb.trace(model, x, blocks=blocks)
    assert sizes(graph) == {"0": groups}
    assert not graph.groups[0].inexact
    for cut in check_surgery(model, x, blocks=blocks, **HALF):
        small: Any = cut.small.get_submodule("1")
        assert small.num_groups * (12 // groups) == cut.small.get_submodule("0").out_channels


def test_blocks_by_name_and_what_is_refused(x: Tensor) -> None:
    torch.manual_seed(0)
    first, second = (nn.Conv2d(n, 12, 1) for n in (3, 12))
    model = nn.Sequential(first, nn.GroupNorm(3, 12), second, nn.GroupNorm(3, 12), nn.ReLU(), nn.Conv2d(12, 2, 1))
    assert sizes(tb.trace(model, x)) == {"0": 4, "2": 4}
    assert sizes(tb.trace(model, x, blocks={"1": "whole"})) == {"0": 3, "2": 4}
    assert sizes(tb.trace(model, x, blocks={"*": "whole", "3": "inside"})) == {"0": 3, "2": 4}
    for wrong in ({"7": "whole"}, {"1": "half"}, "both"):
        with pytest.raises(tb.ConfigError, match="blocks="):
            tb.prune(model, x, budget=tb.Budget(channels=0.5), blocks=wrong)


def test_linear_attention_whose_values_are_padded_with_ones(x: Tensor) -> None:
    """EfficientViT: a column of ones beside the values sums the weights; a head's column leaves with the head."""

    class Padded(Heads):
        def forward(self, x: Tensor) -> Tensor:
            b, n, _ = x.shape
            q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
            y = F.relu(q) @ (F.relu(k).transpose(-2, -1) @ F.pad(v, (0, 1), value=1.0))
            y = y[..., :-1] / (y[..., -1:] + 1e-3)
            return self.proj(y.transpose(1, 2).reshape(b, n, self.num_heads * self.head_dim))

    torch.manual_seed(0)
    model = Block(Padded(24, 4, "linear"))
    assert sizes(tb.trace(model, x))["attention.qkv"] == 4
    check_surgery(model, x, **HALF)
