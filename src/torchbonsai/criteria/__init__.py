"""Which channels matter: one file a method, one protocol, one conformance suite (`torchbonsai.testing`)."""

from torchbonsai.criteria.apoz import APoZ
from torchbonsai.criteria.base import Criterion, PruningWarning, ScoringContext
from torchbonsai.criteria.linear_filter_ensembles import LinearFilterEnsembles
from torchbonsai.criteria.linear_fit import LinearFit
from torchbonsai.criteria.magnitude import Magnitude
from torchbonsai.criteria.random import Random

__all__ = [
    "APoZ",
    "Criterion",
    "LinearFilterEnsembles",
    "LinearFit",
    "Magnitude",
    "PruningWarning",
    "Random",
    "ScoringContext",
]
