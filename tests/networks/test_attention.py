"""Attention in hybrid networks: the residual width, the MLP's hidden width, and the width inside heads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torchbonsai as tb


class Attention(nn.Module):
    """timm's form: one linear layer for query, key and value; sizes kept in attributes."""

    def __init__(self, dim: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.fused = heads, dim // heads, fused
        self.scale = self.head_dim**-0.5
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        else:
            y = (q * self.scale @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(b, n, -1))


class Hybrid(nn.Module):
    """A convolutional stem, one transformer block with batch norms (so that the cut is exact), a linear head."""

    def __init__(self, attention: nn.Module, dim: int = 24) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, dim, 4, 4)
        self.norm = nn.BatchNorm1d(dim)
        self.attention = attention
        self.up, self.down = nn.Linear(dim, 40), nn.Linear(40, dim)
        self.head = nn.Linear(dim, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x).flatten(2)).transpose(1, 2)
        y = self.attention(x, x, x)[0] if isinstance(self.attention, nn.MultiheadAttention) else self.attention(x)
        x = x + y
        x = x + self.down(F.gelu(self.up(x)))
        return self.head(x.mean(1))


X = torch.randn(2, 3, 16, 16)


@pytest.mark.parametrize("fused", [False, True])
def test_widths_inside_heads_leave_with_the_dense_scale(fused: bool) -> None:
    torch.manual_seed(0)
    model = Hybrid(Attention(24, 4, fused))
    result = tb.prune(model, X, budget=tb.Budget(channels=0.5), criterion=tb.criteria.Random(seed=0), scope="uniform")
    assert result.verification.exact, result.verification.reason
    small = result.model.attention
    assert small.head_dim == 3
    assert small.num_heads == 4
    assert small.scale == model.attention.scale
    assert small.qkv.weight.shape == (36, 12)
    assert result.model.up.out_features == 20


def test_multihead_attention_keeps_its_attributes_right_and_its_scale() -> None:
    torch.manual_seed(0)
    model = Hybrid(nn.MultiheadAttention(24, 4, batch_first=True))
    result = tb.prune(model, X, budget=tb.Budget(channels=0.5), criterion=tb.criteria.Random(seed=0), scope="uniform")
    small = result.model.attention
    assert small.embed_dim == small.kdim == small.vdim == small.out_proj.out_features == result.model.head.in_features
    assert small.head_dim * small.num_heads == small.embed_dim < 24
    assert result.model.up.out_features == 20
    assert result.verification.exact  # the scale follows the width inside a head, and the queries' rows take it up
    assert {s.name for s in result.plan.scales} == {"attention.in_proj_weight", "attention.in_proj_bias"}


def test_grouped_queries_stay_tied_to_their_keys() -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.kv, self.o = nn.Linear(24, 24), nn.Linear(24, 24), nn.Linear(24, 24)
            self.d = 6

        def forward(self, x: Tensor) -> Tensor:
            b, n, _ = x.shape
            q = self.q(x).view(b, n, 4, self.d).transpose(1, 2)
            k, v = self.kv(x).view(b, n, 2, 2, self.d).permute(2, 0, 3, 1, 4)
            k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
            y = F.scaled_dot_product_attention(q, k, v, scale=0.4)
            return self.o(y.transpose(1, 2).reshape(b, n, -1))

    torch.manual_seed(0)
    result = tb.prune(
        Hybrid(Grouped()), X, budget=tb.Budget(channels=0.5), criterion=tb.criteria.Random(seed=0), scope="uniform"
    )
    assert result.verification.exact, result.verification.reason
    assert result.model.attention.q.out_features < 24
