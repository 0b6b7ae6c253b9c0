"""The errors a user can meet. One message each: what must hold, what was received, the usual cause, the way out."""

from __future__ import annotations


class PruningError(Exception):
    """Base of every error that torchbonsai raises on purpose."""


class TraceError(PruningError):
    """The model could not be run under the tracer on the example inputs."""


class PlanError(PruningError):
    """A plan does not fit the model, the optimizer or another plan, or its routing could not be proved."""


class BudgetError(PruningError):
    """The budget cannot be met; the message names the reachable floor and what holds it up."""


class VerificationError(PruningError):
    """The small network does not equal the masked large one, and no inexact op explains it."""


class ArtifactError(PruningError):
    """A saved folder cannot be written, read, or rebuilt."""


class DataError(PruningError):
    """A data set, checkpoint or batch is missing, truncated, altered, or holds what it must not."""


class ConfigError(PruningError):
    """A setting, name or pattern is not valid, or names nothing."""


def message(must: str, got: str, cause: str, way_out: str) -> str:
    """The four parts of an error message, in the order in which a reader needs them."""
    return f"{must}\n  received: {got}\n  usual cause: {cause}\n  way out: {way_out}"
