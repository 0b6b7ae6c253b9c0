"""The one runner: walks a list of stages, runs what is not done, and tells a listener what happens.

A stage's key is known once its parents are done, so a stage whose parents ended with outputs that are already there,
under whatever config, is found and not run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from torchbonsai.core.errors import PruningError
from torchbonsai.study.executor import Executor
from torchbonsai.study.stage import Stage, in_order
from torchbonsai.study.store import DamagedStage, Done, Store, key_of
from torchbonsai.study.work import Task, config_to_json


@dataclass(frozen=True, eq=False)
class Event:
    """Something a person may want to see.

    what: "started", "progress", "done" (just now), "found" (done earlier), or "damaged" (found, and run again).
    done, of: stages finished and stages known. progress: (done, of, note) within a stage.
    """

    what: str
    stage: Stage
    done: int
    of: int
    output: Done | None = None
    progress: tuple[float, float, str] | None = None
    note: str = ""


Listener = Callable[[Event], None]
More = Callable[[], Iterable[Stage]]
"""Asked for further stages whenever a worker has nothing to do; those that are known already count once."""


@dataclass(eq=False)
class _Walk:
    """The state of one run."""

    stages: list[Stage]
    store: Store
    executor: Executor
    listener: Listener
    places: dict[str, str]
    more: More
    finished: dict[str, Done] = field(default_factory=dict)  # by spec
    running: dict[str, list[Stage]] = field(default_factory=dict)  # by key; several specs may share a key
    damaged: set[str] = field(default_factory=set)  # keys of which that was told

    def tell(self, what: str, stage: Stage, **more: object) -> None:
        self.listener(Event(what, stage, len(self.finished), len(self.stages), **more))  # type: ignore[arg-type]

    def advance(self) -> None:
        """Take all that is done off the list and give the free places work; exclusive stages run alone, and last."""
        self._give(exclusive=False)
        while self.executor.free and self._grown():
            self._give(exclusive=False)
        self._give(exclusive=True)

    def _give(self, *, exclusive: bool) -> None:
        waiting = [s for s in self.stages if s.spec not in self.finished and s.kind.exclusive == exclusive]
        for stage in waiting:
            if not self.executor.free:
                return
            if self._ready(stage):
                self._consider(stage)

    def _grown(self) -> bool:
        known = {stage.spec for stage in self.stages}
        new = [stage for stage in in_order(self.more()) if stage.spec not in known]
        self.stages += new
        return bool(new)

    def _ready(self, stage: Stage) -> bool:
        started = any(stage in same for same in self.running.values())
        return not started and all(p.spec in self.finished for p in stage.parents.values())

    def _consider(self, stage: Stage) -> None:
        parents = {role: self.finished[p.spec] for role, p in stage.parents.items()}
        key = key_of(stage.kind, stage.config, {role: p.digest for role, p in parents.items()})
        if key in self.running:
            self.running[key].append(stage)
            return
        done = self._look(stage, key)
        if done is not None:
            self.finished[stage.spec] = done
            self.tell("found", stage, output=done)
        elif self._may_start(stage):
            self.running[key] = [stage]
            self.tell("started", stage)
            keys = {role: p.key for role, p in parents.items()}
            config = config_to_json(stage.config)
            self.executor.submit(Task(key, stage.kind.name, config, keys, stage.label, self.places))

    def _look(self, stage: Stage, key: str) -> Done | None:
        try:
            return self.store.load(key)
        except DamagedStage as error:
            if key not in self.damaged:
                self.damaged.add(key)
                self.tell("damaged", stage, note=str(error))
            return None

    def _may_start(self, stage: Stage) -> bool:
        alone = any(s.kind.exclusive for same in self.running.values() for s in same)
        return not alone and not (stage.kind.exclusive and self.running)

    def listen(self) -> None:
        """Wait until a stage ends, telling what is said meanwhile."""
        report = self.executor.next_report()
        while report.progress is not None:
            for stage in self.running.get(report.key, []):
                self.tell("progress", stage, progress=report.progress)
            report = self.executor.next_report()
        same = self.running.get(report.key, [])
        if report.error is not None:
            raise _named(report.error, same)
        done = self.store.load(report.key)
        assert done is not None, f"{report.key} was reported done and has no record"
        del self.running[report.key]
        for stage in same:
            self.finished[stage.spec] = done
            self.tell("done", stage, output=done)


def run(
    stages: Iterable[Stage],
    store: Store,
    executor: Executor,
    *,
    listener: Listener = lambda event: None,
    places: Mapping[str, str] | None = None,
    more: More = tuple,
) -> dict[str, Done]:
    """Bring all `stages` and their ancestors to their end, and those that `more` adds; returns spec -> what each left.

    A stage that raises ends the run with its error, which then names the stage; what is done stays done.
    The executor stays open for another run; whoever opened it closes it.
    """
    walk = _Walk(in_order(stages), store, executor, listener, dict(places or {}), more)
    while True:
        before = len(walk.finished)
        walk.advance()
        if walk.running:
            walk.listen()
        elif len(walk.finished) == before:  # else stages were found in the store, and others may be ready now
            assert len(walk.finished) == len(walk.stages), "the list of stages has a cycle"
            return walk.finished


def _named(error: PruningError, stages: list[Stage]) -> PruningError:
    name = stages[0].label or stages[0].kind.name if stages else "a worker"
    return type(error)(f"in {name}: {error}")
