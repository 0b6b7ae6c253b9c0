"""In mid-training: one step of the small network equals the same step of the masked network on the kept weights."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torchbonsai as tb
from torchbonsai.graph.forward import as_examples
from torchbonsai.surgery.gates import gate_sites, run_gated

OPTIMIZERS = {
    "sgd": lambda ps: torch.optim.SGD(ps, lr=0.05, momentum=0.9, weight_decay=1e-2),
    "nesterov": lambda ps: torch.optim.SGD(ps, lr=0.05, momentum=0.9, weight_decay=1e-2, nesterov=True),
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=0.01, weight_decay=1e-2),
    "amsgrad": lambda ps: torch.optim.AdamW(ps, lr=0.01, amsgrad=True, foreach=False),
    "rmsprop": lambda ps: torch.optim.RMSprop(ps, lr=0.01, momentum=0.5, centered=True),
}


def batches(n):
    generator = torch.Generator().manual_seed(2)
    return [(torch.randn(8, 3, 6, 6, generator=generator, dtype=torch.float64), torch.arange(8) % 4) for _ in range(n)]


def trained(model, make):
    """Three steps, so that every moment is warm; eval mode, as running statistics are no weights."""
    optimizer = make(model.parameters())
    for x, y in batches(3):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dense_given", [False, True])
def test_one_step_equals_the_masked_network_s(mixed, name, dense_given):
    model = mixed.double()
    optimizer = trained(model, OPTIMIZERS[name])
    (x, y) = batches(4)[3]
    result = tb.prune(model, x, budget=tb.Budget(channels=0.5))
    small_optimizer = result.plan.transfer(optimizer, result.model, dense=model if dense_given else None)

    F.cross_entropy(result.model(x), y).backward()
    small_optimizer.step()

    kept = torch.from_numpy(result.graph.keep(result.selection)).double()
    optimizer.zero_grad()
    F.cross_entropy(run_gated(gate_sites(result.graph), model, as_examples(x)[0], kept), y).backward()
    optimizer.step()
    masked = dict(model.named_parameters())
    for parameter, tensor in result.model.named_parameters():
        wanted = masked[parameter].detach()
        for axis, positions in result.plan.kept.get(parameter, {}).items():
            wanted = wanted.index_select(axis, positions)
        error = (tensor.detach() - wanted).abs().max() / wanted.abs().max()
        assert error < 1e-10, f"{parameter}: {error:.1e}"


def test_the_comparison_can_fail(mixed):
    """Without the state the step is another one: the test above sees momentum."""
    model = mixed.double()
    optimizer = trained(model, OPTIMIZERS["sgd"])
    (x, y) = batches(4)[3]
    result = tb.prune(model, x, budget=tb.Budget(channels=0.5))
    moved = result.plan.transfer(optimizer, result.model)
    plain = OPTIMIZERS["sgd"](result.model.parameters())
    F.cross_entropy(result.model(x), y).backward()
    before = result.model.stem.weight.detach().clone()
    plain.step()
    without = result.model.stem.weight.detach().clone()
    with torch.no_grad():
        result.model.stem.weight.copy_(before)
    moved.step()
    assert (result.model.stem.weight - without).abs().max() > 1e-4


def test_state_and_groups_are_carried_over(mixed):
    model = mixed.double()
    decayed = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": rest, "lr": 0.5}], lr=0.01)
    x, y = batches(1)[0]
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    result = tb.prune(model, x, budget=tb.Budget(channels=0.5))
    small = result.plan.transfer(optimizer, result.model)
    assert type(small) is torch.optim.AdamW
    assert [{k: v for k, v in g.items() if k != "params"} for g in small.param_groups] == [
        {k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups
    ]
    named = dict(result.model.named_parameters())
    held = {id(p) for g in small.param_groups for p in g["params"]}
    assert held == {id(p) for p in named.values()}
    for name, p in named.items():
        assert small.state[p]["exp_avg"].shape == p.shape, name
        assert small.state[p]["step"] == 1
    assert optimizer.state[model.stem.weight]["exp_avg"].shape == model.stem.weight.shape
    assert small.state[named["stem.weight"]]["exp_avg"].untyped_storage().data_ptr() != (
        optimizer.state[model.stem.weight]["exp_avg"].untyped_storage().data_ptr()
    )
    small.param_groups[0]["lr"] = 7.0
    assert optimizer.param_groups[0]["lr"] == 0.01
    small.load_state_dict(small.state_dict())


def test_a_plan_that_does_not_know_its_network_asks_for_it(mixed, x):
    result = tb.prune(mixed, x, budget=tb.Budget(channels=0.5))
    optimizer = OPTIMIZERS["sgd"](mixed.parameters())
    loaded = type(result.plan).from_json(result.plan.to_json())
    with pytest.raises(tb.PlanError, match="dense="):
        loaded.transfer(optimizer, result.model)
    assert len(loaded.transfer(optimizer, result.model, dense=mixed).param_groups) == 1


def test_a_foreign_parameter_is_refused(mixed, x):
    result = tb.prune(mixed, x, budget=tb.Budget(channels=0.5))
    with pytest.raises(tb.PlanError, match="must be one of the dense module's"):
        result.plan.transfer(OPTIMIZERS["sgd"](nn.Linear(3, 3).parameters()), result.model)


def test_state_of_another_shape_is_refused(mixed, x):
    result = tb.prune(mixed, x, budget=tb.Budget(channels=0.5))
    optimizer = OPTIMIZERS["sgd"](mixed.parameters())
    optimizer.state[mixed.stem.weight]["rows"] = torch.zeros(8)
    with pytest.raises(tb.PlanError, match="'rows'"):
        result.plan.transfer(optimizer, result.model)
