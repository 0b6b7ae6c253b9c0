"""Budgets on memory and latency, with a clock that is a formula: every number is known, and nothing depends on the
machine. The last tests run the real runtimes."""

from __future__ import annotations

import logging
from math import prod

import pytest
import torch
from torch import nn

import torchbonsai as tb
from torchbonsai.cost import runtime as runtimes
from torchbonsai.cost.layer import Layer
from torchbonsai.cost.memory import model_bytes, peak_bytes
from torchbonsai.cost.predict import LatencyModel
from torchbonsai.cost.surface import Surface
from torchbonsai.cost.table import LayerTable
from torchbonsai.cost.tape import record
from torchbonsai.cost.timing import Times
from torchbonsai.models import ModelConfig, build
from torchbonsai.pruning.meters import MET

STEP = 8


def layer_seconds(layer: Layer, inputs: int, outputs: int) -> float:
    """MACs at the next multiples of 8; 5x5 kernels cost three times as much a MAC, odd widths half as much again."""
    i, o = (-(-w // STEP) * STEP if w > 4 else w for w in (inputs, outputs))
    macs = layer.rows * i * o * prod(layer.size) * prod(layer.kernel) / (layer.groups or i)
    odd = 1.5 if (inputs % STEP and inputs > 4) or outputs % STEP else 1.0
    return 1e-9 * macs * odd * (3.0 if layer.kernel == (5, 5) else 1.0)


def network_seconds(model: nn.Module, inputs: torch.Tensor, overhead: float) -> float:
    tape = record(model, inputs)
    return overhead + sum(layer_seconds(layer, layer.inputs, layer.outputs) for layer, _ in tape.layers.values())


class Made:
    """A runtime whose times are a formula. overhead: seconds of every pass that no layer accounts for."""

    name = "made"

    def __init__(self) -> None:
        self.overhead, self.timed = 0.0, 0

    def versions(self):
        return {"made": "1"}

    def load(self, model, example_inputs, target):
        made = self

        class Bound:
            def bind(self, example_inputs, threads):
                return lambda: network_seconds(model, example_inputs, made.overhead)

        return Bound()

    def layer(self, layer, inputs, outputs, target, threads):
        self.timed += 1
        return lambda: layer_seconds(layer, inputs, outputs)


@pytest.fixture
def made(monkeypatch, tmp_path):
    runtime = Made()
    monkeypatch.setitem(runtimes._OWN, "made", runtime)
    monkeypatch.setenv("TORCHBONSAI_CACHE", str(tmp_path / "cache"))

    def in_turns(arms, *, seconds, on_round=None):
        return [Times((arm.run(),) * 5, 1) for arm in arms]

    monkeypatch.setattr("torchbonsai.pruning.meters.in_turns", in_turns)
    return runtime


class Branches(nn.Module):
    """Two branches of as many MACs and scores, 5x5 on few channels and 3x3 on more; the first is three times slower."""

    def __init__(self):
        super().__init__()
        self.a1, self.a2 = nn.Conv2d(3, 48, 5, padding=2), nn.Conv2d(48, 48, 5, padding=2)
        self.b1, self.b2 = nn.Conv2d(3, 80, 3, padding=1), nn.Conv2d(80, 80, 3, padding=1)
        self.head = nn.Conv2d(128, 10, 1)

    def forward(self, x):
        a, b = self.a2(self.a1(x).relu()).relu(), self.b2(self.b1(x).relu()).relu()
        return self.head(torch.cat([a, b], 1)).mean((2, 3))


def image(size=12):
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))


def table_of(made, tmp_path):
    return LayerTable(runtimes.Target("cpu", "made"), 1, folder=tmp_path)


CONV = Layer("conv", 1, 64, 128, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1), output_padding=(0, 0))


def test_the_table_is_kept_and_never_measured_twice(made, tmp_path):
    table = table_of(made, tmp_path)
    assert table.ms(CONV, 64, 128) == pytest.approx(1e3 * layer_seconds(CONV, 64, 128))
    assert (table.multiple, table.multiple_for(64), table.multiple_for(24), table.multiple_for(3)) == (8, 8, 4, 1)
    timed = made.timed
    again = table_of(made, tmp_path)
    assert again.ms(CONV, 64, 128) == table.ms(CONV, 64, 128)
    assert again.multiple == 8
    assert made.timed == timed
    other = LayerTable(runtimes.Target("cpu", "made"), 2, folder=tmp_path)
    assert other.path != table.path
    assert table.path.parent == tmp_path


def test_a_damaged_table_is_measured_anew_and_said(made, tmp_path, caplog):
    table = table_of(made, tmp_path)
    table.ms(CONV, 64, 128)
    table.path.write_text(table.path.read_text()[:50])
    with caplog.at_level(logging.WARNING, logger="torchbonsai"):
        assert table_of(made, tmp_path).ms(CONV, 64, 128) == table.ms(CONV, 64, 128)
    assert "measured anew" in caplog.text


def test_two_tables_add_to_one_file(made, tmp_path):
    one, two = table_of(made, tmp_path), table_of(made, tmp_path)
    one.ms(CONV, 64, 64)
    two.ms(CONV, 64, 128)
    timed = made.timed
    both = table_of(made, tmp_path)
    both.ms(CONV, 64, 64)
    both.ms(CONV, 64, 128)
    assert made.timed == timed


def test_a_surface_between_its_points(made, tmp_path):
    surface = Surface(table_of(made, tmp_path), CONV, free_inputs=True, free_outputs=True)
    surface.fill()
    for i, o in ((64, 128), (32, 64), (8, 16), (24, 40), (56, 120)):
        assert surface.ms(i, o) == pytest.approx(1e3 * layer_seconds(CONV, i, o))
    for i, o in ((60, 128), (64, 121)):  # the next multiple, and the penalty
        assert surface.ms(i, o) == pytest.approx(1e3 * layer_seconds(CONV, i, o))
    assert surface.ms(0, 64) == 0.0
    times = [surface.ms(i, 128) for i in range(8, 65, 8)]
    assert times == sorted(times)


def test_dtypes_are_told_apart(made, tmp_path):
    model, x = Branches().eval().bfloat16(), image().bfloat16()
    layers = [layer for layer, _ in record(model, x).layers.values()]
    assert {layer.dtype for layer in layers} == {"bfloat16"}
    assert all("bfloat16" in layer.key for layer in layers)
    module, shape = layers[0].build(3, 8)
    assert (module.weight.dtype, shape[:2]) == (torch.bfloat16, (1, 3))


def test_a_layer_of_each_kind_has_a_surface(made, tmp_path):
    depthwise = Layer("conv", 1, 96, 96, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1), output_padding=(0, 0), groups=0)
    grouped = Layer("conv", 1, 64, 64, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1), output_padding=(0, 0), groups=4)
    linear = Layer("linear", 2, 256, 128)
    for layer in (depthwise, grouped, linear):
        surface = Surface(table_of(made, tmp_path), layer, free_inputs=True, free_outputs=True)
        assert all(layer.divides(i, o) for i, o in surface.points())
        surface.fill()
        assert surface.ms(layer.inputs, layer.outputs) == pytest.approx(
            1e3 * layer_seconds(layer, layer.inputs, layer.outputs)
        )
        assert surface.ms(layer.inputs // 2, layer.outputs // 2) < surface.ms(layer.inputs, layer.outputs)


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "densenet40"])
def test_any_selection_is_predicted(made, tmp_path, name):
    """Layers at multiples of the step, where the table knows them: exactly what the small network takes."""
    model, x = build(ModelConfig(name, width=2.0), seed=0).eval(), image(32)
    result = tb.prune(model, x, budget=tb.Budget(channels=0.6), round_to=8, verify=False)
    latency = LatencyModel(result.graph, record(model, x), table_of(made, tmp_path))
    assert latency.dense == pytest.approx(1e3 * network_seconds(model, x, 0.0))
    predicted = latency.of(result.graph.keep(result.selection))
    assert predicted == pytest.approx(1e3 * network_seconds(result.model, x, 0.0), rel=0.05)
    latency.calibrate(3 * latency.dense)
    assert latency.dense == pytest.approx(3e3 * network_seconds(model, x, 0.0))


def test_of_two_selections_with_equal_macs_the_faster_is_found(made):
    model, x = Branches().eval(), image()
    plain = tb.prune(model, x, budget=tb.Budget(macs=0.5), scope="uniform", round_to=8)
    aware = tb.prune(model, x, budget=tb.Budget(macs=0.5, on="cpu:made"))
    assert aware.verification.exact
    assert abs(aware.cost.after.macs - plain.cost.after.macs) < 0.05 * plain.cost.before.macs
    slow, quick = network_seconds(plain.model, x, 0.0), network_seconds(aware.model, x, 0.0)
    assert quick < 0.92 * slow
    assert sum(int(aware.selection[n].sum()) for n in ("b1", "b2")) > sum(
        int(plain.selection[n].sum()) for n in ("b1", "b2")
    )
    assert all(int(mask.sum()) % STEP == 0 for mask in aware.selection.values())
    assert aware.latency.small_ms == pytest.approx(1e3 * quick)
    assert aware.latency.target_ms is None
    assert plain.latency is None


@pytest.mark.parametrize("scope", ["global", "uniform"])
@pytest.mark.parametrize("overhead", [0.0, 0.2])
def test_the_share_is_met_though_the_table_does_not_know_all(made, scope, overhead):
    made.overhead = overhead
    model, x = build(ModelConfig("resnet20", width=2.0), seed=0).eval(), image(32)
    result = tb.prune(model, x, budget=tb.Budget(latency=0.6, on="cpu:made"), scope=scope, verify=False)
    ratio = network_seconds(result.model, x, overhead) / network_seconds(model, x, overhead)
    assert abs(ratio / 0.6 - 1) <= MET
    assert result.latency.off == pytest.approx(ratio / 0.6 - 1)
    assert "off the" in str(result.latency)
    assert (result.latency.rounds > 1) is (overhead > 0) or scope == "uniform"


def test_milliseconds_and_other_limits_hold_together(made):
    model, x = build(ModelConfig("resnet20", width=2.0), seed=0).eval(), image(32)
    dense = 1e3 * network_seconds(model, x, 0.0)
    budget = tb.Budget(latency_ms=0.7 * dense, params=0.3, on="cpu:made")
    result = tb.prune(model, x, budget=budget, verify=False)
    assert result.cost.after.params <= 0.3 * result.cost.before.params
    assert result.latency.small_ms <= 1.1 * 0.7 * dense
    budget = tb.Budget(latency_ms=0.9 * dense, params=0.05, on="cpu:made")  # the parameters hold it far below
    result = tb.prune(model, x, budget=budget, verify=False)
    assert result.cost.after.params > 0.04 * result.cost.before.params
    assert (result.latency.off < -MET, result.latency.rounds) == (True, 1)


def test_an_important_slow_layer_is_spared(made):
    """Scores that may be compared across groups (normalise=None) have a say in whose channels go."""

    class Given:
        needs = frozenset({"weights"})

        def __init__(self, normalise, high):
            self.normalise, self.high = normalise, high

        def score(self, context):
            return {
                g.name: torch.ones(g.size) * (self.high if g.name.startswith("a") else 1.0)
                for g in context.graph.groups
            }

    def widths(criterion):
        result = tb.prune(
            Branches().eval(), image(), budget=tb.Budget(macs=0.5, on="cpu:made"), criterion=criterion, verify=False
        )
        return sum(int(mask.sum()) for name, mask in result.selection.items() if name.startswith("a"))

    assert widths(Given(None, 10.0)) > widths(Given("mean", 10.0)) == widths(Given(None, 1.0))


def test_what_cannot_be_met_is_said(made):
    made.overhead = 1.0
    with pytest.raises(tb.BudgetError, match="latency_ms"):
        tb.prune(Branches().eval(), image(), budget=tb.Budget(latency=0.1, on="cpu:made"))


@pytest.mark.parametrize("scope", ["global", "uniform"])
def test_memory_budgets(scope):
    model, x = build(ModelConfig("densenet40"), seed=0).eval(), torch.zeros(2, 3, 32, 32)
    dense_peak, dense_bytes = peak_bytes(model, x), model_bytes(model)
    result = tb.prune(model, x, budget=tb.Budget(peak_bytes=0.6), scope=scope, verify=False)
    assert 0.55 * dense_peak < peak_bytes(result.model, x) <= 0.6 * dense_peak
    result = tb.prune(model, x, budget=tb.Budget(model_bytes=dense_bytes // 2), scope=scope, verify=False)
    assert 0.45 * dense_bytes < model_bytes(result.model) <= dense_bytes // 2
    assert result.latency is None


def test_an_unreachable_memory_budget_names_what_holds_it():
    with pytest.raises(tb.BudgetError, match=r"peak_bytes(.|\n)*group 'a1'"):
        tb.prune(Branches().eval(), image(), budget=tb.Budget(peak_bytes=100))


@pytest.mark.parametrize(
    "wrong",
    [
        {"latency": 0.5},
        {"latency_ms": 3.0},
        {"latency": 1, "on": "cpu:eager"},
        {"latency": 1.5, "on": "cpu:eager"},
        {"latency_ms": -1, "on": "cpu:eager"},
        {"latency": 0.5, "latency_ms": 3.0, "on": "cpu:eager"},
        {"macs": 0.5, "on": "eager"},
        {"macs": 0.5, "on": "cpu:tensorrt"},
        {"macs": 0.5, "on": "cpu:eager:rows_first"},
        {"widths": {"a": 3}, "on": "cpu:eager"},
        {"zeros": True, "on": "cpu:eager"},
        {"on": "cpu:eager"},
        {"peak_bytes": 0},
        {"model_bytes": 2.0},
    ],
)
def test_budgets_that_make_no_sense(wrong):
    with pytest.raises(tb.ConfigError):
        tb.Budget(**wrong)


def test_a_budget_is_never_ignored():
    model, x = Branches().eval(), image()
    graph = tb.trace(model, x)
    from torchbonsai.selection.select import select

    scores = {g.name: torch.ones(g.size) for g in graph.groups}
    with pytest.raises(tb.ConfigError, match="needs the network itself"):
        select(graph, scores, tb.Budget(peak_bytes=0.5))
    with pytest.raises(tb.ConfigError, match="one example"):
        tb.prune(model, [x, x], budget=tb.Budget(latency=0.5, on="cpu:eager"))


@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
def test_the_real_runtimes(runtime, monkeypatch, tmp_path):
    """What is measured depends on the machine; that it is measured, and what for, does not."""
    if runtime == "onnxruntime":
        pytest.importorskip("onnxruntime")
    monkeypatch.setenv("TORCHBONSAI_CACHE", str(tmp_path))
    monkeypatch.setattr("torchbonsai.pruning.meters.SECONDS", 0.05)
    result = tb.prune(Branches().eval(), image(), budget=tb.Budget(macs=0.5, on=f"cpu:{runtime}"))
    assert result.verification.exact
    assert result.cost.after.macs <= 0.5 * result.cost.before.macs
    assert result.latency.on == f"cpu:{runtime}"
    assert result.latency.n >= 5
    assert min(result.latency.small_ms, result.latency.dense_ms) > 0
    assert len(list(tmp_path.glob("latency-*.json"))) == 1
