"""Training: one loop in sight, exact resumption, starting points."""

from torchbonsai.training.config import TrainConfig
from torchbonsai.training.loop import accuracy, fit
from torchbonsai.training.report import EpochReport, History, StepReport
from torchbonsai.training.start import fresh_head, load_weights
from torchbonsai.training.state import TrainState

__all__ = [
    "EpochReport",
    "History",
    "StepReport",
    "TrainConfig",
    "TrainState",
    "accuracy",
    "fit",
    "fresh_head",
    "load_weights",
]
