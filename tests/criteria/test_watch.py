"""What a criterion may use: batches, loss, inputs, watching."""

import pytest
import torch
from torch import nn

from torchbonsai.core.errors import DataError, PruningError
from torchbonsai.criteria import ScoringContext
from torchbonsai.testing import toys


def seen_at(context):
    seen = []
    context.watch(lambda site, output: seen.append((site.op_index, output.clone())))
    return seen


def test_outputs_are_those_of_the_sites():
    toy = toys.residual()
    seen = seen_at(ScoringContext(toy.graph, toy.model, [toy.inputs]))
    with torch.no_grad():
        stem = torch.relu(toy.model.stem(toy.inputs))
        inner = torch.relu(toy.model.a(stem))
        last = torch.relu(stem + toy.model.b(inner))
    assert [index for index, _ in seen] == [1, 3, 6]
    assert all(torch.equal(a, b) for (_, a), b in zip(seen, (stem, inner, last), strict=True))


def test_a_loss_may_compute_before_and_after_the_model():
    toy = toys.chain()

    def loss(model, batch):
        return (model((batch * 2).clone() / 2).relu() + 1).mean()

    given = seen_at(ScoringContext(toy.graph, toy.model, [toy.inputs], loss))
    plain = seen_at(ScoringContext(toy.graph, toy.model, [toy.inputs]))
    assert [i for i, _ in given] == [i for i, _ in plain]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(given, plain, strict=True))


def test_flags_hooks_and_attention_switch_come_back_even_after_an_error():
    toy = toys.chain()
    toy.model.train()
    toy.model.bn1.eval()
    context = ScoringContext(toy.graph, toy.model, [torch.ones(2, 4, 4, 4)])  # four channels: the forward raises
    with pytest.raises(RuntimeError):
        seen_at(context)
    assert toy.model.training
    assert not toy.model.bn1.training
    assert not toy.model._forward_hooks
    assert not toy.model._forward_pre_hooks
    assert torch.backends.mha.get_fastpath_enabled()
    assert len(seen_at(ScoringContext(toy.graph, toy.model, [toy.inputs]))) == 2


class Branching(toys.Chain):
    """Takes another path for big batches."""

    def forward(self, x):
        return super().forward(x.neg().neg() if len(x) > 2 else x)


class Short(toys.Chain):
    """Ends early for big batches."""

    def forward(self, x):
        return self.conv1(x) if len(x) > 2 else super().forward(x)


@pytest.mark.parametrize(("build", "got"), [(Branching, "aten."), (Short, "the end")])
def test_another_path_is_an_error(build, got):
    model, graph = build().eval(), toys.chain().graph
    few, many = torch.ones(2, 3, 4, 4), torch.ones(3, 3, 4, 4)
    assert len(seen_at(ScoringContext(graph, model, [few]))) == 2
    with pytest.raises(PruningError, match=f"(?s)as in the trace.*{got}"):
        seen_at(ScoringContext(graph, model, [few, many]))


def test_a_loss_that_never_calls_the_model():
    toy = toys.chain()
    with pytest.raises(PruningError, match="never ran"):
        seen_at(ScoringContext(toy.graph, toy.model, [toy.inputs], lambda model, batch: batch.mean()))


def test_inputs_of_a_batch():
    context = ScoringContext(toys.chain().graph, nn.Identity())
    x = torch.ones(2)
    assert context.inputs_of(x) is x
    assert context.inputs_of({"x": x}) == {"x": x}
    assert context.inputs_of((x, 1)) is x
    assert [context.length_of(b) for b in (torch.ones(3, 2), {"a": torch.ones(4)}, (torch.ones(5, 1), 0))] == [3, 4, 5]
    with pytest.raises(DataError, match="counts its samples"):
        context.length_of([1.0, 2.0])


def test_batches_are_read_once_in_order():
    toy = toys.chain()
    reads = []

    def stream():
        for i in range(3):
            reads.append(i)
            yield torch.full((1, 3, 4, 4), float(i)), torch.zeros(1, dtype=torch.int64)

    context = ScoringContext(toy.graph, toy.model, stream())
    seen_at(context)
    seen_at(context)
    assert reads == [0, 1, 2]
    assert [float(x.mean()) for x, _ in context.data()] == [0, 1, 2]


def test_default_loss_is_cross_entropy():
    toy = toys.chain()
    targets = torch.tensor([2, 0])
    context = ScoringContext(toy.graph, toy.model, [(toy.inputs, targets)])
    expected = nn.functional.cross_entropy(toy.model(toy.inputs), targets)
    assert torch.equal(context.loss(toy.model, context.data()[0]), expected)
    with pytest.raises(DataError, match=r"\(inputs, targets\)"):
        context.loss(toy.model, toy.inputs)
    for answer in (lambda x: {"logits": x}, lambda x: (x, x), lambda x: x.mean((1, 2, 3))):
        with pytest.raises(DataError, match=r"a float tensor \(n, classes"):
            context.loss(answer, (toy.inputs, targets))
    for wrong in ([0, 9], [-1, 0]):
        with pytest.raises(
            DataError, match=f"needs classes of 0 to [0-9]+[\\s\\S]*classes {min(wrong)} to {max(wrong)}"
        ):
            context.loss(toy.model, (toy.inputs, torch.tensor(wrong)))
