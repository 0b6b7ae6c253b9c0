"""`tb.study.compare`: starting point x method x budget x seed, under both fairnesses, with the controls always in.

    source training ─ fresh head ─┐
    new weights ──────────────────┼─ score and cut ─ train ─ evaluate (test read once)
              └─ dense training ──┘        └─ time

Everything is a stage in `out/stages`, so that a dense network is trained once for all methods, and a comparison that
was broken off goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torchbonsai.study import stages  # noqa: F401  registers the kinds of stages
from torchbonsai.study.arms import Arms
from torchbonsai.study.config import CompareConfig, config_of, share_of
from torchbonsai.study.executor import running
from torchbonsai.study.look import look
from torchbonsai.study.record import Round, RunRecord, write
from torchbonsai.study.runner import Event, run
from torchbonsai.study.runs import Finished, Run, equal_compute, equal_epochs, looked_at, spent_before
from torchbonsai.study.settled import settled
from torchbonsai.study.stage import Stage
from torchbonsai.study.store import Store, check_writable, versions
from torchbonsai.study.summary import summarise

OnEvent = Callable[[Event], None]
OnRecord = Callable[[RunRecord], None]


def compare(
    *, on_event: OnEvent = lambda event: None, on_record: OnRecord = lambda record: None, **settings: Any
) -> list[RunRecord]:
    """Compare ways of pruning on real training; settings: the fields of `CompareConfig`.

    on_event: told of every stage. on_record: given every run as soon as its accuracy is known (its latency may come
    later). Returns the records, which are also in `out/records`. Raises a PruningError that names the stage where
    something fails; what is done stays, and the same call goes on from there.
    """
    return compare_config(config_of(**settings), on_event=on_event, on_record=on_record)


def compare_config(
    config: CompareConfig, *, on_event: OnEvent = lambda event: None, on_record: OnRecord = lambda record: None
) -> list[RunRecord]:
    """`compare` with its settings as one object."""
    out = Path(config.out)
    finished: dict[str, Any] = {}
    runs: list[Run] = []

    def listener(event: Event) -> None:
        if event.output is not None:
            finished[event.stage.spec] = event.output
        on_event(event)
        for one in runs:
            if event.output is not None and one.measured.spec == event.stage.spec:
                on_record(record_of(one, finished, config))

    store = Store(out / "stages")
    # Workers import while this process looks.
    with running(store, config.workers, config.threads, config.devices) as executor:
        material, places = look(config)
        Arms(config.concrete, material)  # a method that nobody knows fails before anything is written
        check_writable(out)
        config, measured = settled(config, material, config.epochs, store, executor, listener=on_event, places=places)
        arms = Arms(config, material)
        runs = equal_epochs(arms)
        # The uniform controls come first: they need no training, and not every model can be remade.
        uniform = [n.stage for n in arms.cuts if n.arm.control == "uniform-new"]
        first = [*uniform, *(n.stage for n in arms.cuts), *(s for r in runs for s in r.stages)]
        later: list[Run] = []

        def more() -> list[Stage]:
            """What equal compute asks for, which is known as soon as everything is cut."""
            if not later and all(cut.stage.spec in finished for cut in arms.cuts):
                later.extend(equal_compute(arms, finished))
                runs.extend(later)
                for one in later:  # the costliest arm is trained as long as under equal epochs: it may be done
                    if one.measured.spec in finished:
                        on_record(record_of(one, finished, config))
            return [stage for one in later for stage in one.stages]

        run(first, store, executor, listener=listener, places=places, more=more)
    records = [record_of(one, finished, config) for one in runs]
    for record in records:
        write(record, out / "records")
    summarise(config, material.splits, runs, records, finished, measured)
    return records


def record_of(one: Run, finished: Finished, config: CompareConfig) -> RunRecord:
    """The record of a run whose accuracy is known; its latency is empty as long as that is not."""
    network = finished[one.network.spec].result["network"]
    training = finished[one.trained.spec]
    measured = finished[one.measured.spec]
    timed = finished.get(one.timed.spec)
    before = spent_before(one.start, one.network, finished)
    roles: dict[str, Stage] = {
        "start": one.start,
        "network": one.network,
        "train": one.trained,
        "evaluate": one.measured,
        "time": one.timed,
    }
    dense = one.arm.control == "dense"
    return RunRecord(
        arm=one.arm,
        seed=one.seed,
        val_accuracy=measured.result["val_accuracy"],
        test_accuracy=measured.result["test_accuracy"],
        macs=network["macs"],
        params=network["params"],
        dense_macs=network["dense_macs"],
        dense_params=network["dense_params"],
        budget_macs=None if dense else int(share_of(one.arm.budget) * network["dense_macs"]),
        widths=network["widths"],
        dense_widths=network["dense_widths"],
        epochs=training.result["epochs"],
        samples=training.result["samples"],
        spent=replace(before, training=training.result["training_macs"]),
        total_macs_allowed=one.total,
        verification=finished[one.network.spec].result.get("verification", {}),
        remade=network["remade"],
        stages={role: finished[s.spec].key for role, s in roles.items() if s.spec in finished and role != "time"},
        study=config.identity,
        versions=versions(),
        latency=timed.timing["latency"] if timed else {},
        timing={"training_seconds": training.timing["training_seconds"], "seconds": training.timing["seconds"]},
        environment=dict(training.record["environment"]),
        notes=tuple(finished[one.network.spec].result.get("notes", ())),
        rounds=_round(one, finished),
    )


def _round(one: Run, finished: Finished) -> tuple[Round, ...]:
    """Validation accuracy right after the cut, recalibrated, and after the training; of arms that were cut."""
    looks = [finished.get(stage.spec) for stage in (one.after_cut, one.recalibrated) if stage is not None]
    if None in looks or not looks:
        return ()  # not looked at yet, or not cut
    trained = finished[one.trained.spec]
    val = finished[one.measured.spec].result["val_accuracy"]
    return (looked_at(trained, trained.result["epochs"], val, *looks),)
