"""Channels that no weight makes: those of a table in a buffer, which a linear layer reads."""

import torch
from torch import nn

import torchbonsai as tb


class Coordinates(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.tensor([[3.0, 1.0, -5.0]]))
        self.inner, self.outer, self.head = nn.Linear(3, 4), nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head((self.outer(x) * self.inner(self.table)).relu())


def test_they_are_scored_by_the_table():
    x = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    result = tb.prune(Coordinates(), x, budget=tb.Budget(widths={"table": 2}))
    assert result.scores["table"].tolist() == [3.0, 1.0, 5.0]
    assert result.plan.kept["table"][1].tolist() == [0, 2]
    assert result.verification.exact
