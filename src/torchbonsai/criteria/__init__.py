"""Which channels matter: one file a method, one protocol, one conformance suite (`torchbonsai.testing`)."""

from torchbonsai.criteria.activation_mean import ActivationMean
from torchbonsai.criteria.apoz import APoZ
from torchbonsai.criteria.base import Criterion, PruningWarning, ScoringContext
from torchbonsai.criteria.bn_scale import BatchNormScale
from torchbonsai.criteria.gate_saliency import GateSaliency
from torchbonsai.criteria.geometric_median import GeometricMedian
from torchbonsai.criteria.hessian_diagonal import HessianDiagonal
from torchbonsai.criteria.leave_one_out import LeaveOneOut
from torchbonsai.criteria.linear_filter_ensembles import LinearFilterEnsembles
from torchbonsai.criteria.linear_fit import LinearFit
from torchbonsai.criteria.magnitude import Magnitude
from torchbonsai.criteria.random import Random
from torchbonsai.criteria.snip import SNIP
from torchbonsai.criteria.synflow import SynFlow
from torchbonsai.criteria.taylor import Taylor

__all__ = [
    "SNIP",
    "APoZ",
    "ActivationMean",
    "BatchNormScale",
    "Criterion",
    "GateSaliency",
    "GeometricMedian",
    "HessianDiagonal",
    "LeaveOneOut",
    "LinearFilterEnsembles",
    "LinearFit",
    "Magnitude",
    "PruningWarning",
    "Random",
    "ScoringContext",
    "SynFlow",
    "Taylor",
]
