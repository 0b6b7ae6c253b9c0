"""Run records with chosen accuracies, for tables, sentences and reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torchbonsai.study.fairness import Spent
from torchbonsai.study.record import Arm, RunRecord

DENSE_MACS = 1_000_000


def record(arm: Arm, seed: int, accuracy: float, macs: int = 249_000, **changes: object) -> RunRecord:
    """One run; everything that a test does not care about is filled in."""
    fields: dict[str, object] = {
        "arm": arm,
        "seed": seed,
        "val_accuracy": accuracy,
        "test_accuracy": accuracy,
        "macs": macs,
        "params": macs // 50,
        "dense_macs": DENSE_MACS,
        "dense_params": 20_000,
        "budget_macs": None if arm.control == "dense" else 250_000,
        "widths": {"conv1": 8 + seed, "conv2": 16},
        "dense_widths": {"conv1": 16, "conv2": 32},
        "epochs": 12.0,
        "samples": 12_000,
        "spent": Spent(training=3 * macs * 12_000),
        "total_macs_allowed": None,
        "verification": {"exact": True, "max_rel_error": 1e-16, "dtype": "float64", "reason": None},
        "remade": "",
        "stages": {"train": f"train-{seed}"},
        "study": "cafe",
        "versions": {"torch": "2.13.0", "torchbonsai": "0.1.0"},
        "latency": {"median_ms": 0.5, "p10_ms": 0.4, "p90_ms": 0.6, "n": 30, "device": "cpu", "threads": 1},
    }
    return RunRecord(**{**fields, **changes})  # type: ignore[arg-type]


def runs(arm: Arm, accuracies: Iterable[float], macs: int = 249_000) -> list[RunRecord]:
    """One run a seed, from seed 0 on."""
    return [record(arm, seed, a, macs) for seed, a in enumerate(accuracies)]


def block(
    accuracies: Mapping[tuple[str, str], Iterable[float]], budget: str = "4x", fairness: str = "equal-epochs"
) -> list[RunRecord]:
    """{(start, "l1" or a control as "random-widths:l1", "uniform-new", "dense"): accuracies} as records."""
    found: list[RunRecord] = []
    for (start, what), values in accuracies.items():
        control, _, method = what.partition(":")
        if not method and control not in ("uniform-new", "dense"):
            control, method = "", what
        dense = control == "dense"
        arm = Arm(start, method, control, "" if dense and fairness == "equal-epochs" else budget, fairness)
        found += runs(arm, values, DENSE_MACS if dense else 249_000)
    return found
