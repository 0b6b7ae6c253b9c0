"""Data sets as uint8 tensors, in typed splits: scores see train, choices see validation, the test set is read once."""

from torchbonsai.data.batches import Batch, batches, normalise
from torchbonsai.data.load import DataConfig, load, names
from torchbonsai.data.splits import Split, Splits, TestSplit, TrainSplit, ValSplit

__all__ = [
    "Batch",
    "DataConfig",
    "Split",
    "Splits",
    "TestSplit",
    "TrainSplit",
    "ValSplit",
    "batches",
    "load",
    "names",
    "normalise",
]
