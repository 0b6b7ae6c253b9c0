"""Training through torch.compile: compiled anew where shapes change and nowhere else, no break in the graph."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torch._dynamo.utils import counters

import torchbonsai as tb
from torchbonsai.core.errors import ConfigError
from torchbonsai.data import Splits, prefetch
from torchbonsai.surgery.gates import gate_sites, gated_weights
from torchbonsai.training import StepReport, TrainConfig, fit
from torchbonsai.training.compiled import compiled

WHOLE = TrainConfig(2, batch_size=64, compile=True)
"""One batch of 53 images an epoch: one shape."""


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are captured and differentiated as always, and run without waiting for a C++ compiler."""
    compile_of_torch = torch.compile
    monkeypatch.setattr(torch, "compile", lambda m, **kwargs: compile_of_torch(m, backend="aot_eager", **kwargs))


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


@pytest.mark.usefixtures("traced")
def test_two_sizes_of_batches_are_two_graphs_and_no_break(net: nn.Module, splits: Splits) -> None:
    fit(net, splits.train, TrainConfig(3, batch_size=16, compile=True), splits=splits, val=splits.val)
    assert graphs() == 2  # batches of 14 and 13 images
    assert not counters["graph_break"]


@pytest.mark.usefixtures("traced")
def test_a_cut_in_the_midst_of_training_is_compiled_once_more(net: nn.Module, splits: Splits) -> None:
    seen: list[int] = []

    def on_step(report: StepReport) -> None:
        seen.append(graphs())
        if report.step == 2:
            budget, image = tb.Budget(channels=0.5), torch.zeros(1, 2, 4, 4)
            tb.Pruner(net, image, report.optimizer, budget=budget, schedule=tb.schedules.OneShot(at=1)).step()

    counters.clear()
    fit(net, splits.train, TrainConfig(5, batch_size=64, compile=True), splits=splits, on_step=on_step)
    assert seen == [1, 1, 2, 2, 2]
    assert net[0].weight.shape[0] == 3
    assert not counters["graph_break"]


@pytest.mark.usefixtures("traced")
def test_more_cuts_than_pytorch_would_compile_by_itself() -> None:
    """Its limit is 8, after which it runs eager and says nothing."""
    with compiled(nn.ReLU(), True) as forward:
        for size in range(1, 11):
            forward(torch.zeros(size))
    assert graphs() == 10


@pytest.mark.usefixtures("traced")
def test_gates_and_masks_do_not_break_the_graph(net: nn.Module) -> None:
    """Weights times gates, differentiated by the gates: one graph, for every value of the gates."""
    net.eval()
    graph = tb.trace(net, torch.zeros(1, 2, 4, 4))
    sites = gate_sites(graph)
    assert sites.weights
    assert not sites.activations

    def gated(x: Tensor, g: Tensor) -> Tensor:
        return torch.func.functional_call(net, gated_weights(sites, dict(net.named_parameters()), g), (x,))

    forward, x = torch.compile(gated, fullgraph=True), torch.randn(3, 2, 4, 4)
    for g in (torch.ones(graph.n_atoms), torch.tensor([1.0, 0, 1, 0, 1, 0])):
        g.requires_grad_(True)
        both = []
        for run in (forward, gated):
            (gradient,) = torch.autograd.grad(run(x, g).sum(), g)
            both.append(gradient)
        assert torch.allclose(*both, atol=1e-6)
    assert graphs() == 1


@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")
@pytest.mark.slow
def test_compiled_is_eager_to_rounding_and_the_same_bits_again(splits: Splits) -> None:
    """The real compiler, once."""
    torch.manual_seed(0)
    first = nn.Sequential(nn.Flatten(), nn.Linear(32, 5), nn.ReLU(), nn.Linear(5, 3))
    eager, again = copy.deepcopy(first), copy.deepcopy(first)
    fit(eager, splits.train, TrainConfig(2, batch_size=64), splits=splits)
    fit(first, splits.train, WHOLE, splits=splits)
    fit(again, splits.train, WHOLE, splits=splits)
    for a, b, c in zip(eager.parameters(), first.parameters(), again.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-4)
        assert torch.equal(b, c)


def test_what_cannot_be_compiled_is_an_error(net: nn.Module, splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: object, inputs: object) -> None:
        raise OSError("no compiler found")

    compile_of_torch = torch.compile
    monkeypatch.setattr(torch, "compile", lambda m, **kwargs: compile_of_torch(m, backend=broken, **kwargs))
    with pytest.raises(ConfigError, match="no compiler found"):
        fit(net, splits.train, WHOLE, splits=splits)


def test_fetched_ahead_or_at_hand_the_weights_are_the_same(
    net: nn.Module, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, config = [copy.deepcopy(net) for _ in range(2)], TrainConfig(2, batch_size=16, augment=("crop", "flip"))
    fit(models[0], splits.train, config, splits=splits)
    monkeypatch.setattr(prefetch, "SHARE", 0.0)
    fit(models[1], splits.train, config, splits=splits)
    assert all(torch.equal(a, b) for a, b in zip(*(m.state_dict().values() for m in models), strict=True))
