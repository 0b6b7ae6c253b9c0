"""Plans as data, and applying them: what is kept of a tensor and of a module, and what is refused."""

import copy
import json

import pytest
import torch
from torch import nn

import torchbonsai as tb
from torchbonsai.surgery.apply import apply
from torchbonsai.surgery.plan import PruningPlan, compose

HALF = tb.Budget(channels=0.5)


def test_a_plan_survives_json(mixed, x):
    result = tb.prune(mixed, x, budget=HALF)
    text = json.dumps(result.plan.to_json())
    again = PruningPlan.from_json(json.loads(text))
    assert json.dumps(again.to_json()) == text
    for a, b in zip(apply(again, mixed).parameters(), result.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert vars(again.edits[0]) == vars(result.plan.edits[0])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data.update(version=2),
        lambda data: data.pop("kept"),
        lambda data: data["kept"].update({"stem.weight": 3}),
        lambda data: data["edits"].append({"module": "stem"}),
        lambda data: data["kept"].update({"stem.weight": {"x": [0]}}),
    ],
)
def test_other_json_is_refused(mixed, x, spoil):
    data = tb.prune(mixed, x, budget=HALF).plan.to_json()
    spoil(data)
    with pytest.raises(tb.PlanError, match="version 1"):
        PruningPlan.from_json(data)


def test_kept_positions_are_what_the_api_says(mixed, x):
    result = tb.prune(mixed, x, budget=HALF)
    state = dict(mixed.named_parameters(remove_duplicate=False)) | dict(mixed.named_buffers())
    small = dict(result.model.named_parameters(remove_duplicate=False)) | dict(result.model.named_buffers())
    for name, axes in result.plan.kept.items():
        assert result.plan.shapes[name] == tuple(state[name].shape)
        wanted = state[name]
        for axis, positions in axes.items():
            assert positions.dtype == torch.int64
            assert positions.device.type == "cpu"
            assert (positions.diff() > 0).all()
            assert 0 < len(positions) < state[name].shape[axis]
            wanted = wanted.index_select(axis, positions)
        assert torch.equal(small[name], wanted)
    whole = state.keys() - result.plan.kept.keys()
    assert all(torch.equal(small[name], state[name]) for name in whole)
    assert "scale" in result.plan.kept
    assert result.plan.kept["left.weight"].keys() == result.plan.kept["right.weight"].keys()


def test_flags_types_and_layouts_are_kept(mixed, x):
    model = mixed.to(torch.bfloat16).to(memory_format=torch.channels_last).train()
    model.norm.eval()
    model.inner.weight.requires_grad_(False)
    model.stem.weight.grad = torch.ones_like(model.stem.weight)
    small = tb.prune(model, x.to(torch.bfloat16), budget=HALF).model
    assert [m.training for m in small.modules()] == [m.training for m in model.modules()]
    for (name, a), b in zip(small.named_parameters(), model.parameters(), strict=True):
        assert (a.dtype, a.device, a.requires_grad, a.grad) == (b.dtype, b.device, b.requires_grad, None), name
        assert a.is_leaf
        if a.dim() == 4:
            assert a.is_contiguous(memory_format=torch.channels_last), name
    assert small.right.weight is small.left.weight
    assert small.norm.num_batches_tracked == model.norm.num_batches_tracked
    assert not set(map(id, small.parameters())) & set(map(id, model.parameters()))


def test_memory_is_not_shared(mixed, x):
    small = tb.prune(mixed, x, budget=HALF).model
    before = copy.deepcopy(mixed.state_dict())
    with torch.no_grad():
        for tensor in small.state_dict().values():
            tensor.zero_()
    assert all(torch.equal(a, b) for a, b in zip(mixed.state_dict().values(), before.values(), strict=True))


def test_attributes_of_modules_follow_their_tensors(mixed, x):
    small = tb.prune(mixed, x, budget=HALF).model
    for module in small.modules():
        if isinstance(module, nn.Conv2d):
            shape = (module.out_channels, module.in_channels // module.groups)
            assert tuple(module.weight.shape[:2]) == shape
        if isinstance(module, nn.Linear):
            assert tuple(module.weight.shape) == (module.out_features, module.in_features)
        if isinstance(module, nn.BatchNorm2d):
            assert module.num_features == len(module.running_mean)
    assert small.deep.groups == small.deep.in_channels == small.stem.out_channels
    assert repr(small) != repr(mixed)


def test_a_plan_fits_its_network_only(mixed, x):
    result = tb.prune(mixed, x, budget=HALF)
    with pytest.raises(tb.PlanError, match=r"has shape \(.*\)"):
        apply(result.plan, result.model)
    with pytest.raises(tb.PlanError, match="no such tensor"):
        apply(result.plan, nn.Linear(3, 3))


def test_composed_plans_cut_as_their_parts_do(mixed, x):
    first = tb.prune(mixed, x, budget=tb.Budget(channels=0.7), criterion=tb.criteria.Random(0))
    second = tb.prune(first.model, x, budget=tb.Budget(channels=0.6), criterion=tb.criteria.Random(1))
    both = compose(first.plan, second.plan)
    small = apply(both, mixed)
    for (name, a), b in zip(small.named_parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert torch.equal(small(x), second.model(x))
    edits = {(e.module, e.attribute): e for e in both.edits}
    assert edits[("stem", "out_channels")].old == 8
    assert edits[("stem", "out_channels")].new == second.model.stem.out_channels
    assert both.shapes["stem.weight"] == (8, 3, 3, 3)


def test_index_maps(mixed, x):
    plan = tb.prune(mixed, x, budget=HALF).plan
    kept = plan.kept["stem.weight"][0].tolist()
    assert plan.index_map("stem.weight") == {old: new for new, old in enumerate(kept)}
    with pytest.raises(tb.PlanError, match="narrows"):
        plan.index_map("head.weight", 0)


def test_what_user_code_hung_on_a_parameter_goes_with_it(mixed, x):
    """Optimizers read such marks; so may the forward."""
    mixed.inner.weight.no_weight_decay = True
    mixed.head.bias.rate = 0.5
    small = tb.prune(mixed, x, budget=tb.Budget(channels=0.5)).model
    assert small.inner.weight.no_weight_decay is True
    assert small.inner.weight.shape != mixed.inner.weight.shape
    assert vars(small.head.bias) == {"rate": 0.5}
    assert vars(mixed.head.bias) == {"rate": 0.5}
