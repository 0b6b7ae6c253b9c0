"""The zoo of hazards: small modules in plain forward code, each with one thing that breaks naive channel removal.

Every hazard takes pictures of `channels` channels and `SIZE` x `SIZE` pixels and returns pictures of `out` channels of
the same size; `HAZARDS` lists them by name. Batches are even (a temporal shift sees pairs of frames).
"""

from torchbonsai.testing.hazards import branches, layouts, mixing, weights  # noqa: F401  each defines hazards
from torchbonsai.testing.hazards.base import SIZE, Hazard

HAZARDS: dict[str, type[Hazard]] = {
    kind.__name__: kind for kind in sorted(Hazard.__subclasses__(), key=lambda kind: kind.__name__)
}

__all__ = ["HAZARDS", "SIZE", "Hazard"]
