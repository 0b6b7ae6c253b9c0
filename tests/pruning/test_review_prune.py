"""What once went wrong around the cut: optimizers, the given model, random state."""

import pytest
import torch
from torch import nn

import torchbonsai as tb
from torchbonsai.core.errors import PlanError


def network():
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)
    )
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    return model


@pytest.fixture
def pictures():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5))


def train(model, optimizer, x):
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


def test_a_transferred_optimizer_steps_the_small_model_though_a_scheduler_was_attached(pictures):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    train(model, optimizer, pictures)
    scheduler.step()
    result = tb.prune(model, pictures, budget=tb.Budget(channels=0.5))
    moved = result.plan.transfer(optimizer, result.model)
    dense = [p.clone() for p in model.parameters()]
    small = [p.clone() for p in result.model.parameters()]
    train(result.model, moved, pictures)
    assert all(torch.equal(a, b) for a, b in zip(dense, model.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(small, result.model.parameters(), strict=True))
    assert moved.param_groups[0]["lr"] == pytest.approx(0.01)


def test_hooks_of_a_transferred_optimizer_are_its_own(pictures):
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    result = tb.prune(model, pictures, budget=tb.Budget(channels=0.5))
    moved = result.plan.transfer(optimizer, result.model)
    moved.register_step_post_hook(lambda *_: None)
    assert not optimizer._optimizer_step_post_hooks


def test_state_that_hides_tensors_in_a_list_is_refused(pictures):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    optimizer.state[model[0].weight]["factors"] = [torch.ones(8)]
    result = tb.prune(model, pictures, budget=tb.Budget(channels=0.5))
    with pytest.raises(PlanError, match="list of tensors"):
        result.plan.transfer(optimizer, result.model)


class Counting(nn.Module):
    """Writes buffers and attributes in every forward, in eval mode too."""

    def __init__(self):
        super().__init__()
        self.body = network()
        self.register_buffer("seen", torch.zeros(()))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        self.seen += 1
        return self.body(x)


def test_scoring_with_data_leaves_the_given_model_as_it_was(pictures):
    model = Counting()
    batches = [(pictures, torch.zeros(2))]
    tb.prune(model, pictures, budget=tb.Budget(channels=0.5), criterion=tb.criteria.APoZ(), batches=batches)
    assert (model.calls, model.seen.item()) == (0, 0)
