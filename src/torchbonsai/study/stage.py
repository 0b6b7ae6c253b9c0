"""A stage: a pure function of a frozen config and its parents' outputs.

    @runs(Train, "train", version=1)
    def train(config: Train, inputs: Inputs, context: Context) -> Output: ...

The config says *what* and is a frozen dataclass of plain data; the handler, looked up by the config's type, says *how*.
`version` is the version of the handler's code: raise it when the same config would give another result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torchbonsai.core.config import config_hash
from torchbonsai.core.errors import ConfigError, message

if TYPE_CHECKING:
    from torch import Tensor

    from torchbonsai.study.store import Done
    from torchbonsai.training.team import Team

Inputs = Mapping[str, "Done"]
"""Role -> what that parent left in the store."""


@dataclass(frozen=True, eq=False)
class Output:
    """What a stage hands on.

    result: JSON data that the same config and parents always give. tensors: name -> tensor, as reproducible as the
    result. timing: JSON data that may differ from run to run (seconds, latencies); never part of any identity.
    """

    result: dict[str, Any]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    timing: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Context:
    """What a handler may use beside config and inputs, none of which may change the result.

    folder: the stage's own, for checkpoints. places: content digest -> where this machine keeps that content.
    progress: called with (done, of, note), as often as the handler likes. team: where the kind is shared, and several
    processes run the stage; what process 0 returns is stored.
    """

    folder: Path
    places: Mapping[str, str] = field(default_factory=dict)
    progress: Callable[[float, float, str], None] = lambda done, of, note: None
    team: Team | None = None


Handler = Callable[[Any, Inputs, Context], Output]
AnyHandler = TypeVar("AnyHandler", bound=Callable[..., Output])


@dataclass(frozen=True)
class Kind:
    """A registered kind of stage. exclusive: it measures time, so nothing else of the study may run beside it.

    shared: its work can be shared out to a team of processes, where its numerics have several devices.
    """

    name: str
    version: int
    config: type
    handler: Handler
    exclusive: bool = False
    shared: bool = False


KINDS: dict[str, Kind] = {}
_BY_CONFIG: dict[type, Kind] = {}


def runs(
    config: type, name: str, *, version: int, exclusive: bool = False, shared: bool = False
) -> Callable[[AnyHandler], AnyHandler]:
    """Register the decorated function for a type of config. One name, one type, one handler."""

    def register(handler: AnyHandler) -> AnyHandler:
        taken = KINDS.get(name)
        if taken is not None and (taken.config.__module__, taken.config.__qualname__) != (
            config.__module__,
            config.__qualname__,
        ):
            raise ConfigError(
                message(
                    "the name of a kind of stage belongs to one config type",
                    f"{name!r} for {config.__qualname__}, taken by {taken.config.__qualname__}",
                    "two modules chose the same name",
                    "choose another name",
                )
            )
        KINDS[name] = _BY_CONFIG[config] = Kind(name, version, config, handler, exclusive, shared)
        return handler

    return register


def kind_of(config: Any) -> Kind:
    """The registered kind of a config; ConfigError where nobody handles its type."""
    try:
        return _BY_CONFIG[type(config)]
    except KeyError:
        raise ConfigError(
            message(
                "a stage's config must be of a type that a handler is registered for",
                type(config).__qualname__,
                "the module with the handler was not imported",
                f"import it, or decorate a handler with @runs; known: {', '.join(sorted(KINDS))}",
            )
        ) from None


@dataclass(frozen=True, eq=False)
class Stage:
    """A node of the list of stages. label: for people, no part of the identity."""

    config: Any
    parents: Mapping[str, Stage] = field(default_factory=dict)
    label: str = ""

    @property
    def kind(self) -> Kind:
        """The registered kind that runs this stage."""
        return kind_of(self.config)

    @cached_property
    def spec(self) -> str:
        """A hash of config and ancestry: two stages with one spec are one stage."""
        parents = {role: parent.spec for role, parent in self.parents.items()}
        return config_hash([self.kind.name, self.kind.version, self.config, parents])


def in_order(stages: Iterable[Stage]) -> list[Stage]:
    """`stages` and all their ancestors, each once, parents before children, otherwise in the order given."""
    found: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        if stage.spec not in found:
            for parent in stage.parents.values():
                visit(parent)
            found[stage.spec] = stage

    for stage in stages:
        visit(stage)
    return list(found.values())
