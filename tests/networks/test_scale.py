"""Numbers that the forward computes from a width stay the dense network's: rows of a layer take up the difference."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torchbonsai as tb
from torchbonsai.surgery.apply import apply
from torchbonsai.surgery.plan import PruningPlan, compose
from torchbonsai.testing import check_surgery

HALF: dict[str, Any] = {"shares": (0.5,), "seeds": (0, 1)}
FORMS = ("fused", "baked in", "baked in, then fused", "multi-head")


class Attention(nn.Module):
    """Softmax attention whose scale follows the width inside a head."""

    def __init__(self, form: str, dim: int = 24, bias: bool = True) -> None:
        super().__init__()
        self.form, self.head_dim = form, dim // 4
        if form.startswith("multi"):
            self.mha = nn.MultiheadAttention(dim, 4, batch_first=True, bias=bias)
        else:
            self.qkv, self.proj = nn.Linear(dim, 3 * dim, bias=bias), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        if self.form.startswith("multi"):
            return self.mha(x, x, x, need_weights="weights" in self.form)[0]
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 4, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        if self.form == "fused":
            y = F.scaled_dot_product_attention(q, k, v)
        elif self.form == "baked in":
            y = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q / q.shape[-1], k, v)
        return self.proj(y.transpose(1, 2).reshape(b, n, -1))


class Hybrid(nn.Module):
    """A stem, a norm, attention beside the stream, a head."""

    def __init__(self, attention: nn.Module, dim: int = 24) -> None:
        super().__init__()
        self.stem, self.norm, self.attention = nn.Conv2d(3, dim, 4, 4), nn.BatchNorm1d(dim), attention
        self.head = nn.Linear(dim, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x).flatten(2)).transpose(1, 2)
        return self.head((x + self.attention(x)).mean(1))


def hybrid(form: str, **options: Any) -> Hybrid:
    torch.manual_seed(0)
    return Hybrid(Attention(form, **options)).eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_the_dense_softmax_scale_is_kept(form: str, bias: bool, x: Tensor) -> None:
    """Against both references: nothing changed but what was removed."""
    for cut in check_surgery(hybrid(form, bias=bias), x, blocks="inside", **HALF):
        scales = cut.plan.scales
        assert len({s.name for s in scales}) == (2 if bias else 1)
        assert all(set(s.positions.tolist()) == set(range(24)) for s in scales), "the rows of the queries"
        width = cut.small.get_submodule("attention")
        d = width.mha.head_dim if form.startswith("multi") else width.head_dim  # type: ignore[union-attr]
        wanted = (d / 6) ** (1.5 if "then" in form else 0.5)
        assert all(s.factor == pytest.approx(wanted, rel=1e-12) for s in scales)


def test_attention_that_returns_its_weights_keeps_them(x: Tensor) -> None:
    """Written out, nn.MultiheadAttention multiplies the queries by a number made from their width."""
    model = hybrid("multi-head with weights")
    result = tb.prune(model, x, budget=tb.Budget(channels=0.5), scope="uniform", blocks="inside")
    assert result.verification.exact
    assert {s.name for s in result.plan.scales} == {"attention.mha.in_proj_weight", "attention.mha.in_proj_bias"}


def test_the_result_says_so_and_float32_is_only_rounded(x: Tensor) -> None:
    model = hybrid("fused")
    result = tb.prune(model, x, budget=tb.Budget(channels=0.5), scope="uniform", blocks="inside")
    assert result.verification.exact
    assert result.verification.max_rel_error < 1e-12
    assert any("24 rows of attention.qkv.weight multiplied by 0.7071" in note for note in result.notes)
    rows = result.plan.kept["attention.qkv.weight"][0]
    columns = result.plan.kept["attention.qkv.weight"][1]
    dense = model.attention.qkv.weight[rows][:, columns]
    assert torch.equal(result.model.attention.qkv.weight[12:], dense[12:])
    torch.testing.assert_close(result.model.attention.qkv.weight[:12], dense[:12] * 0.5**0.5)


def test_a_wrong_factor_is_noticed(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchbonsai.graph import prove

    monkeypatch.setattr(prove, "missing_factor", lambda large, small: 0.8)
    with pytest.raises(tb.VerificationError):
        tb.prune(hybrid("fused"), x, budget=tb.Budget(channels=0.5), scope="uniform", blocks="inside")


def test_plans_with_factors_round_trip_and_compose(x: Tensor) -> None:
    dense = hybrid("fused").double()
    first = tb.prune(dense, x.double(), budget=tb.Budget(channels=0.7), scope="uniform", blocks="inside")
    again = PruningPlan.from_json(json.loads(json.dumps(first.plan.to_json())))
    state = apply(again, dense).state_dict()
    assert all(torch.equal(state[k], v) for k, v in first.model.state_dict().items())
    second = tb.prune(first.model, x.double(), budget=tb.Budget(channels=0.6), scope="uniform", blocks="inside")
    both = apply(compose(first.plan, second.plan), dense)
    torch.testing.assert_close(both(x.double()), second.model(x.double()), rtol=1e-12, atol=1e-14)
    assert len(second.plan.scales) == 2


class Shared(nn.Module):
    """What is scaled by its width is read elsewhere too, or has passed a ReLU."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        if self.way == "after a ReLU":
            return self.c(F.relu(y) / y.shape[1])
        if self.way == "also an output":
            return self.c(y / y.shape[1]), y
        if self.way == "read elsewhere":
            return self.c(y / y.shape[1] + F.relu(y))
        if self.way == "in training":
            return self.c(y / y.shape[1] if not self.training else y)
        return self.c(y / y.shape[1])


@pytest.mark.parametrize("way", ["after a ReLU", "read elsewhere", "in training"])
def test_where_no_layer_can_take_it_up_it_is_said(way: str) -> None:
    torch.manual_seed(0)
    model, x = Shared(way).eval(), torch.randn(4, 8)
    result = tb.prune(model, x, budget=tb.Budget(channels=0.5))
    assert not result.verification.exact
    assert "a width is used as a value" in result.verification.reason
    assert not result.plan.scales


def test_an_output_beside_it_is_not_rescaled() -> None:
    torch.manual_seed(0)
    model, x = Shared("also an output").eval(), torch.randn(4, 8)
    result = tb.prune(model, x, budget=tb.Budget(channels=0.5), prune_outputs=[1])
    assert not result.plan.scales
    assert "a width is used as a value" in result.verification.reason


@pytest.mark.parametrize("norm", [False, True])
def test_a_division_by_the_width_behind_a_layer_or_a_norm_is_exact(norm: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 12, 1), *([nn.BatchNorm2d(12)] if norm else []), Divided(), nn.Conv2d(12, 4, 1))
    for cut in check_surgery(model.eval(), torch.randn(2, 3, 5, 5), **HALF):
        assert {s.name for s in cut.plan.scales} == ({"1.weight", "1.bias"} if norm else {"0.weight", "0.bias"})


class Divided(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / x.shape[1]


def test_averaged_copies_are_rescaled_too(x: Tensor) -> None:
    model = hybrid("fused")
    average = torch.optim.swa_utils.AveragedModel(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    pruner = tb.Pruner(
        model, x, optimizer, budget=tb.Budget(channels=0.5), scope="uniform", follow=[average]
    )  # fmt: skip
    before = copy.deepcopy(model)
    assert pruner.step()
    assert pruner.result().plan.scales
    wanted = apply(pruner.result().plan, before)
    for name, tensor in average.module.state_dict().items():
        assert torch.equal(tensor, wanted.state_dict()[name]), name
