"""Forms of models: shared weights, repeated calls, several inputs and outputs, modes, transformed weights, wrappers."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torchbonsai as tb
from torchbonsai.testing import check_surgery

HALF = {"shares": (0.5,), "seeds": (0, 1)}


def sizes(graph):
    return {g.name: g.size for g in graph.groups}


def test_a_module_called_twice(net, pictures):
    model = net(
        lambda self, x: self.c(self.b(self.b(self.a(x).relu()).relu())),
        a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(6, 6, 1), c=nn.Conv2d(6, 2, 1),
    )  # fmt: skip
    graph = tb.trace(model, pictures)
    assert sizes(graph) == {"a": 6}
    cut = check_surgery(model, pictures, **HALF)[0]
    assert cut.small.b.in_channels == cut.small.b.out_channels


def test_shared_weights_stay_shared(net, pictures):
    shared = nn.Conv2d(6, 6, 3, padding=1)
    other = nn.Conv2d(6, 6, 3, padding=1)
    other.weight = shared.weight
    model = net(
        lambda self, x: self.c((self.s(self.a(x)) + self.t(self.a(x).relu())).relu()),
        a=nn.Conv2d(3, 6, 1), s=shared, t=other, c=nn.Conv2d(6, 2, 1),
    )  # fmt: skip
    graph = tb.trace(model, pictures)
    assert graph.aliases == {"t.weight": "s.weight"}
    for cut in check_surgery(model, pictures, **HALF):
        assert cut.small.s.weight is cut.small.t.weight
        assert set(cut.plan.kept) >= {"s.weight", "t.weight"}


def test_a_weight_of_a_convolution_and_of_a_transposed_one(net, pictures):
    model = net(
        lambda self, x: self.b(F.conv_transpose2d(F.conv2d(self.a(x), self.w).relu(), self.w)),
        a=nn.Conv2d(3, 6, 1), w=nn.Parameter(torch.ones(7, 6, 3, 3)), b=nn.Conv2d(6, 2, 1),
    )  # fmt: skip
    graph = tb.trace(model, pictures)
    assert sorted(sizes(graph).values()) == [6, 7]
    check_surgery(model, pictures, **HALF)


def test_several_inputs_and_outputs(net):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(5, 8), nn.Linear(4, 8)
            self.left, self.right = nn.Linear(8, 2), nn.Linear(8, 3)

        def forward(self, x, y=None, scale=1.0):
            z = (self.a(x) + self.b(y) * scale).relu()
            return {"left": self.left(z), "more": [self.right(z), z.sum(1)]}

    x, y = torch.randn(3, 5), torch.randn(3, 4)
    for inputs in ((x, y), {"x": x, "y": y}, [(x, y), (x[:1], y[:1])], [{"x": x, "y": y, "scale": 2.0}]):
        graph = tb.trace(Two(), inputs)
        assert sizes(graph) == {"a": 8}
        assert {f.name for f in graph.frozen} == {"left", "right"}
        check_surgery(Two().eval(), inputs, **HALF)


def test_a_hidden_layer_that_is_an_output_too_stays(net):
    model = net(lambda self, x: (self.b(h := self.a(x)), h), a=nn.Linear(5, 8), b=nn.Linear(8, 2))
    graph = tb.trace(model, torch.randn(2, 5))
    assert graph.groups == ()
    assert {f.name: f.reason for f in graph.frozen}["a"] == "it is an output of the model"


def test_a_head_that_exists_in_training_only_is_cut_too(net, pictures):
    def forward(self, x):
        h = self.a(x).relu()
        return (self.b(h), self.aux(h)) if self.training else self.b(h)

    model = net(forward, a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 2, 1), aux=nn.Conv2d(8, 4, 1))
    graph = tb.trace(model, pictures)
    assert ("aux.weight", 1) in [(b.name, b.axis) for b in graph.by_name["a"].bound("consumes")]
    cut = check_surgery(model, pictures, **HALF)[0]
    assert [t.shape[1] for t in cut.small.train()(pictures)] == [2, 4]


def test_parameters_that_no_pass_reaches_are_named(net, pictures):
    model = net(lambda self, x: self.b(self.a(x)), a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 2, 1), idle=nn.Linear(3, 3))
    graph = tb.trace(model, pictures)
    assert set(graph.unreached) == {"idle.weight", "idle.bias"}
    assert "idle.weight" in graph.explain()
    assert sizes(graph) == {"a": 8}
    small = tb.prune(model, pictures, budget=tb.Budget(channels=0.5)).model
    assert torch.equal(small.idle.weight, model.idle.weight)


def test_a_branch_on_the_input_needs_two_examples(net):
    def forward(self, x):
        h = self.a(x)
        return self.b(h.relu() if x.mean() > 0 else h.sort(1).values)

    model, x = net(forward, a=nn.Linear(5, 8), b=nn.Linear(8, 2)), torch.ones(2, 5)
    assert sizes(tb.trace(model, x)) == {"a": 8}
    joined = tb.trace(model, [x, -x])
    assert joined.groups == ()
    assert "sort" in next(f for f in joined.frozen if f.name == "a").reason


def test_weight_standardisation(net, pictures):
    """Statistics of a weight over its inputs change when inputs go, and do not when outputs go."""

    def standardised(self, x):
        w = self.b.weight - self.b.weight.mean((1, 2, 3), keepdim=True)
        return self.c(F.conv2d(self.a(x).relu(), w).relu())

    model = net(standardised, a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(6, 7, 1), c=nn.Conv2d(7, 2, 1))
    only_outputs = tb.prune(model, pictures, budget=tb.Budget(widths={"b": 3}))
    assert only_outputs.verification.exact
    inputs = tb.prune(model, pictures, budget=tb.Budget(widths={"a": 3}))
    assert not inputs.verification.exact
    assert inputs.plan.inexact


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes(net, pictures, dtype):
    model = net(lambda self, x: self.b(self.a(x).relu()), a=nn.Conv2d(3, 8, 3), b=nn.Conv2d(8, 2, 1)).to(dtype)
    result = tb.prune(model, pictures.to(dtype), budget=tb.Budget(channels=0.5))
    assert result.model.a.weight.dtype == dtype
    assert result.verification.exact
    assert result.verification.dtype == "float64"


def test_weight_norm_is_never_silent(net, pictures):
    """The norm of a filter runs over its inputs: frozen with a reason, or flagged."""
    normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 7, 1))
    first, last = nn.Conv2d(3, 6, 1), nn.Conv2d(7, 2, 1)
    model = net(lambda self, x: self.c(self.b(self.a(x).relu()).relu()), a=first, b=normed, c=last)
    graph = tb.trace(model, pictures)
    frozen = {f.name: f for f in graph.frozen}
    assert "a" in frozen or graph.by_name["a"].inexact
    assert "a" not in frozen or frozen["a"].source.op


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_refused_models(net, pictures):
    scripted = torch.jit.trace(net(lambda self, x: self.a(x), a=nn.Linear(4, 4)), torch.zeros(1, 4), check_trace=False)
    with pytest.raises(tb.TraceError, match=r"plain nn\.Module"):
        tb.trace(scripted, torch.zeros(1, 4))
    with pytest.raises(tb.TraceError, match=r"must be an nn\.Module"):
        tb.trace(lambda x: x, torch.zeros(1, 4))
    with pytest.raises(tb.ConfigError, match="at least one tensor"):
        tb.trace(nn.Linear(4, 4), (1, 4))
    with pytest.raises(tb.TraceError, match="must run on example_inputs"):
        tb.trace(nn.Linear(4, 4), torch.zeros(1, 5))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch.compile's own imports
def test_wrapped_models_are_unwrapped(pictures):
    inner = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 2, 1))
    for wrapped in (nn.DataParallel(inner), torch.compile(inner)):
        assert sizes(tb.trace(wrapped, pictures)) == {"0": 6}
        assert type(tb.prune(wrapped, pictures, budget=tb.Budget(channels=0.5)).model) is nn.Sequential


def test_a_write_into_a_parameter_is_refused(net):
    def forward(self, x):
        with torch.no_grad():
            self.a.weight.mul_(0.5)
        return self.b(self.a(x))

    model = net(forward, a=nn.Linear(4, 6), b=nn.Linear(6, 2))
    before = model.a.weight.clone()
    with pytest.raises(tb.TraceError, match="must not write into a parameter"):
        tb.trace(model, torch.zeros(2, 4))
    assert torch.equal(model.a.weight, before)
