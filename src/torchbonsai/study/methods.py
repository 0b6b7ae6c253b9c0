"""Criteria by name, for configs and command lines: ours, or `package.module:factory` of the user's own."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchbonsai.core.errors import ConfigError, message
from torchbonsai.criteria import (
    SNIP,
    ActivationMean,
    APoZ,
    BatchNormScale,
    GateSaliency,
    GeometricMedian,
    HessianDiagonal,
    LeaveOneOut,
    LinearFilterEnsembles,
    Magnitude,
    Random,
    SynFlow,
    Taylor,
)
from torchbonsai.criteria.base import NEEDS_DATA, Criterion
from torchbonsai.models.factory import find_factory

METHODS: dict[str, Callable[[int], Criterion]] = {
    "random": lambda seed: Random(seed=seed),
    "l1": lambda seed: Magnitude(p=1),
    "l2": lambda seed: Magnitude(p=2),
    "lamp": lambda seed: Magnitude(p=2, normalise="lamp"),
    "apoz": lambda seed: APoZ(),
    "mean-activation": lambda seed: ActivationMean(),
    "bn-scale": lambda seed: BatchNormScale(),
    "fpgm": lambda seed: GeometricMedian(),
    "taylor": lambda seed: Taylor(),
    "hessian": lambda seed: HessianDiagonal(seed=seed),
    "snip": lambda seed: SNIP(),
    "synflow": lambda seed: SynFlow(),
    "lfe": lambda seed: LinearFilterEnsembles(seed=seed),
    "lfe-quick": lambda seed: LinearFilterEnsembles(masks_per_channel=2, precision="bf16", seed=seed),
    "lfe-accuracy": lambda seed: LinearFilterEnsembles(performance="accuracy", seed=seed),
    "lfe-agreement": lambda seed: LinearFilterEnsembles(performance="agreement", seed=seed),
    "lfe-agreement-quick": lambda seed: LinearFilterEnsembles(
        performance="agreement", masks_per_channel=2, precision="bf16", seed=seed
    ),
    "lfe-global": lambda seed: LinearFilterEnsembles(drawn="global", seed=seed),
    "lfe-hadamard": lambda seed: LinearFilterEnsembles(design="hadamard", keep=0.5, seed=seed),
    "lfe-independent": lambda seed: LinearFilterEnsembles(design="independent", seed=seed),
    "lfe-ridge": lambda seed: LinearFilterEnsembles(masks_per_channel=1, ridge=1.0, seed=seed),
    "lfe-settled": lambda seed: LinearFilterEnsembles(cut="budget", seed=seed),
    "leave-one-out": lambda seed: LeaveOneOut(),
    "leave-one-out-agreement": lambda seed: LeaveOneOut(performance="agreement"),
    "gates": lambda seed: GateSaliency(seed=seed),
}
_MEANT = {"lfe-settled": "cut=budget"}
"""Names of ours that once made another criterion (this one: cut=0.5) -> what tells its results from those."""
PASSES = {"weights": 0, "activations": 1, "gradients": 3}
"""What a criterion may need -> forward passes over the images it scores on."""


@dataclass(frozen=True)
class Method:
    """A criterion in a config. code: a digest of the file that defines one of the user's own; of ours, a word where the
    name once meant another."""

    name: str
    code: str = ""


def method(name: str) -> Method:
    """The method of that name. Raises ConfigError where nothing is called so."""
    criterion_of(Method(name), 0)
    return Method(name, _MEANT.get(name, "") if name in METHODS else code_digest(name))


def criterion_of(method: Method, seed: int) -> Criterion:
    """A new criterion. seed: for those that draw; a factory gets it if it has a parameter of that name."""
    if method.name in METHODS:
        return METHODS[method.name](seed)
    if ":" not in method.name:
        raise ConfigError(
            message(
                "a method is one of ours or package.module:factory",
                repr(method.name),
                "a typing error, or a method that is not there yet",
                f"ours are {', '.join(METHODS)}",
            )
        )
    found = _made(method.name, seed)
    if not (callable(getattr(found, "score", None)) and hasattr(found, "needs")):
        raise ConfigError(
            message(
                "a method must make a criterion: an object with `needs` and `score(context)`",
                f"{method.name} makes a {type(found).__name__}",
                "another class, or a missing return",
                f"see the docs on criteria of one's own; ours are {', '.join(METHODS)}",
            )
        )
    return found


def _made(name: str, seed: int) -> Any:
    """What the user's factory returns. Raises ConfigError where it raises."""
    factory = find_factory(name, tuple(METHODS))
    try:
        return factory(seed=seed) if "seed" in inspect.signature(factory).parameters else factory()
    except Exception as error:
        raise ConfigError(
            message(
                f"the factory {name!r} must make a criterion",
                f"{type(error).__name__}: {error}",
                "an error in the factory, or one that needs arguments",
                "call it by hand, without arguments or with seed=0",
            )
        ) from error


def needs_images(criterion: Any) -> bool:
    """Whether it scores on data."""
    return bool(set(criterion.needs) & NEEDS_DATA)


def reads_labels(criterion: Any) -> bool:
    """Whether what it needs is measured against classes, by the default loss or by accuracy."""
    weighed = set(criterion.needs) & NEEDS_DATA - {"activations"}
    return bool(weighed) and getattr(criterion, "performance", "loss") != "agreement"


def passes_of(criterion: Any, details: Mapping[str, Any]) -> int:
    """Forward passes that scoring one image took: `details["forward_passes"]`, or by what the criterion needs.

    details: of `tb.prune`'s result. Raises ConfigError where it can be told from neither.
    """
    if "forward_passes" in details:
        return int(details["forward_passes"])
    unknown = set(criterion.needs) - PASSES.keys()
    if unknown:
        raise ConfigError(
            message(
                "a compared method must say what it needs, so that its scoring can be counted",
                f"{type(criterion).__name__} needs {', '.join(sorted(unknown))}",
                "a need whose cost depends on the method's own settings",
                f'set context.details["forward_passes"] in its score(); needs that are counted: {", ".join(PASSES)}',
            )
        )
    return max((PASSES[need] for need in criterion.needs), default=0)


def code_digest(name: str) -> str:
    """A digest of the file that the module of "package.module:factory" lies in: other code, other results."""
    module = importlib.import_module(name.partition(":")[0])
    file = getattr(module, "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:32] if file else ""
