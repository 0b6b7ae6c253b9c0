"""The page of benchmarks/lfe.py, from its record."""

from __future__ import annotations

import datetime
import os
import platform
from typing import Any

import numpy as np
import torch
from _zoo_summary import processor
from scipy.stats import spearmanr


def page(record: dict[str, Any]) -> str:
    """Markdown: ratios over all layers, equality of scores, standard errors, designs."""
    rows, settings = record["layers"], record["settings"]
    if not rows:
        return "no layer yet\n"
    lines = [
        f"# Linear filter ensembles on ResNet-{settings['depth']}: replay beside the naive loop",
        "",
        f"`{record['command']}`, {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC. Python "
        f"{platform.python_version()}, torch {torch.__version__}; {processor()}, {os.cpu_count()} cores, "
        f"{settings['threads']} threads.",
        "",
        f"{sum(len(r['float32']['scores']) for r in rows.values())} inner channels in {len(rows)} layers, "
        f"{sum(r['masks'] for r in rows.values())} masks ({sum(r['distinct'] for r in rows.values())} distinct ones, "
        f"each evaluated once) on {settings['images']} images of the first half of the test set, in batches of "
        f"{settings['batch']}. Naive: one full float32 forward a mask, {_timed(rows)} masks a layer timed, taken times "
        "the distinct masks. The replay's seconds are all of them: recording, comparison with a full forward, masks.",
        "",
        "Times faster by the wall, and by the processor seconds of all threads: on a busy machine the wall says more "
        "of the neighbours.",
        "",
        "| stage | naive s | float32 s | times faster | (processor) | bf16 s | times faster | (processor) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for stage in ("layer1", "layer2", "layer3", ""):
        lines.append(_ratios(stage or "all", [r for name, r in rows.items() if name.startswith(stage)]))
    lines += ["", *_equal(rows), "", *_errors(rows), "", *_designs(record["designs"])]
    return "\n".join(lines) + "\n"


def _timed(rows: dict[str, Any]) -> str:
    return "–".join(str(n) for n in sorted({f(r["naive_timed"] for r in rows.values()) for f in (min, max)}))


def naive_seconds(row: dict[str, Any]) -> np.ndarray:
    """(wall, processor) of all masks of a layer, from those that were timed."""
    return np.array(row["naive_s"]) / row["naive_timed"] * row["distinct"]


def _ratios(stage: str, rows: list[dict[str, Any]]) -> str:
    naive = np.sum([naive_seconds(r) for r in rows], axis=0)
    cells = [stage, f"{naive[0]:.0f}"]
    for arm in ("float32", "bf16"):
        fast = np.sum([r[f"{arm}_s"] for r in rows], axis=0)
        cells += [f"{fast[0]:.0f}", f"{naive[0] / fast[0]:.2f}", f"{naive[1] / fast[1]:.2f}"]
    return f"| {' | '.join(cells)} |"


def _equal(rows: dict[str, Any]) -> list[str]:
    share = max(r["loss_difference"] / r["loss_spread"] for r in rows.values())
    said = [
        f"Replay and naive, float32: losses of the masks timed naively differ by at most "
        f"{max(r['loss_difference'] for r in rows.values()):.1e}, {share:.1e} of a layer's spread of losses over masks."
    ]
    for name, row in rows.items():
        if "naive_scores" in row:
            naive, fast = np.array(row["naive_scores"]), np.array(row["float32"]["scores"])
            said.append(
                f"{name}, all masks naively: scores differ by at most {np.abs(naive - fast).max() / naive.std():.1e} "
                f"of their standard deviation, the ranking is {'the same' if _same_order(naive, fast) else 'another'}."
            )
    half = [np.array(r["bf16"]["scores"]) for r in rows.values()]
    full = [np.array(r["float32"]["scores"]) for r in rows.values()]
    within = [r["rank_correlation"] for r in rows.values()]
    overall = spearmanr(np.concatenate(half), np.concatenate(full)).statistic
    said.append(
        f"bf16 beside float32: rank correlation {overall:.4f} over all channels; within a layer {np.mean(within):.4f} "
        f"on average, {min(within):.4f} at worst."
    )
    return [" ".join(said)]


def _same_order(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(np.argsort(a), np.argsort(b))


def _errors(rows: dict[str, Any]) -> list[str]:
    lines = [
        "Standard errors say how scores vary with the masks, on these images; nothing of other images.",
        "",
        "| layer | channels | masks | R² | median standard error | spread of scores | naive s | float32 s | bf16 s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        fit = row["float32"]
        lines.append(
            f"| {name} | {len(fit['scores'])} | {row['masks']} | {fit['r2']:.3f} | {np.median(fit['errors']):.2g} "
            f"| {np.std(fit['scores']):.2g} | {naive_seconds(row)[0]:.1f} | {row['float32_s'][0]:.1f} "
            f"| {row['bf16_s'][0]:.1f} |"
        )
    return lines


def _designs(designs: dict[str, Any]) -> list[str]:
    if not designs:
        return []
    lines = [
        "How many masks a design needs: the spread of a score over seeds of the masks (root of the mean variance over "
        "channels), the standard error that the fits said, and the masks that would give the standard error of as many "
        "independent masks at the same keep probability (variance × masks, independent = 1; smaller is better). "
        "Spreads at different keep probabilities are of different quantities: compare them with their scores' own.",
        "",
        "| layer | keep | design | masks | spread over seeds | said | spread / scores | masks needed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, rows in designs.items():
        base = {r["keep"]: r["spread"] ** 2 * r["masks"] for r in rows if r["design"] == "independent"}
        for r in rows:
            lines.append(
                f"| {name} | {r['keep']} | {r['design']} | {r['masks']} | {r['spread']:.2g} | {r['said']:.2g} "
                f"| {r['spread'] / r['scores']:.2f} | {r['spread'] ** 2 * r['masks'] / base[r['keep']]:.2f} |"
            )
    return lines
