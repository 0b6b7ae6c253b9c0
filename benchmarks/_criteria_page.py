"""The page of benchmarks/criteria_resnets.py, from its record."""

from __future__ import annotations

import datetime
import os
import platform
from typing import Any

import numpy as np
import torch
from _zoo_summary import processor

from torchbonsai.study.statistics import t_interval

Setting = tuple[int, str, float]


def page(record: dict[str, Any]) -> str:
    """Markdown: a table a network, and whether random is the worst."""
    values = gathered(record["cells"])
    settings = sorted({key[:3] for key in values})
    methods = list(dict.fromkeys(key[3] for key in values))
    said = record["settings"]
    lines = [
        "# Criteria on the trained CIFAR-10 ResNets, before fine-tuning",
        "",
        f"{made(record)}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC. Python "
        f"{platform.python_version()}, torch {torch.__version__}; {processor()}, {os.cpu_count()} cores, "
        f"{said['threads']} threads.",
        "",
        f"Accuracy in % on one half of the test set ({said['told_on']} images); scores from {said['images']} images "
        "of the other half, since the networks have memorised the training set. Cut: "
        f"{', '.join(said['only']) or 'all groups'}. Nothing is trained and no batch norm recalibrated after the cut. "
        f"{reached(record['cells'])} Intervals: 95 % by Student's t over {said['draws']} draws of calibration images "
        "(lfe: of images and masks; random: seeds) on one checkpoint; not over trainings. One value, no interval: the "
        f"method needs no images. lfe: {said['masks']:g} masks a channel, precision {said['precision']}; loo: the "
        "channel alone left out. agreement: with the network whole instead of minus the loss. seen: scored on as many "
        "training images instead.",
        "",
        f"| network | scope | MACs removed | {' | '.join(methods)} |",
        f"|---|---|---|{'---|' * len(methods)}",
    ]
    for depth, scope, gone in settings:
        cells = [interval(values.get((depth, scope, gone, method), [])) for method in methods]
        dense = record["dense"][str(depth)]
        lines.append(f"| ResNet-{depth} ({100 * dense:.2f}) | {scope} | {gone:.0%} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *worst(values, settings, methods)]) + "\n"


def made(record: dict[str, Any]) -> str:
    """The command, or those whose records were joined."""
    if "parts" not in record:
        return f"`{record['command']}`"
    return f"Measured side by side, and joined with `--join`: {', '.join(f'`{c}`' for c in record['parts'])}"


def gathered(cells: dict[str, Any]) -> dict[tuple[int, str, float, str], list[float]]:
    """(depth, scope, removed, method) -> accuracies over draws."""
    values: dict[tuple[int, str, float, str], list[float]] = {}
    for name, cell in cells.items():
        depth, method, _, scope, gone = name.split()
        values.setdefault((int(depth), scope, float(gone), method), []).append(cell["accuracy"])
    return values


def reached(cells: dict[str, Any]) -> str:
    """How far the MACs that went are from those that were asked for."""
    beyond = [1 - float(name.split()[4]) - cell["macs"] for name, cell in cells.items()]
    return f"MACs removed: those asked for, and at most {100 * max(beyond):.1f} points more."


def bounds(accuracies: list[float]) -> tuple[float, float]:
    """The 95 % interval in %, or the value twice where there is one alone."""
    found = t_interval(accuracies)
    half = found.half or 0.0
    return 100 * (found.mean - half), 100 * (found.mean + half)


def interval(accuracies: list[float]) -> str:
    """Mean ± half the interval."""
    if not accuracies:
        return "–"
    mean, n = 100 * float(np.mean(accuracies)), len(accuracies)
    return f"{mean:.1f}" if n == 1 else f"{mean:.1f} ± {bounds(accuracies)[1] - mean:.1f} (n={n})"


def worst(values: dict[Any, list[float]], settings: list[Setting], methods: list[str]) -> list[str]:
    """In how many settings each method has the lowest and the highest mean, and stands apart from random."""
    ran = {s: {m: values[*s, m] for m in methods if (*s, m) in values} for s in settings}
    full = [m for m in methods if all(m in row for row in ran.values())]
    lines = [
        "Is random the worst? In how many settings the method has the lowest mean of all, the highest, the highest of "
        f"the {len(full)} methods that are in all settings, and an interval wholly above or below random's:",
        "",
        f"| method | worst of all in | best of all in | best of the {len(full)} in | clearly above random | "
        "clearly below | of |",
        "|---|---|---|---|---|---|---|",
    ]
    means = {s: {m: float(np.mean(found)) for m, found in row.items()} for s, row in ran.items()}
    for method in methods:
        mine = [s for s in settings if method in ran[s]]
        low = sum(min(means[s], key=means[s].__getitem__) == method for s in mine)
        high = sum(max(means[s], key=means[s].__getitem__) == method for s in mine)
        first = sum(max(full, key=means[s].__getitem__) == method for s in mine) if method in full else "–"
        ranges = [(bounds(ran[s][method]), bounds(ran[s]["random"])) for s in mine if "random" in ran[s]]
        above, below = sum(a[0] > b[1] for a, b in ranges), sum(a[1] < b[0] for a, b in ranges)
        apart = "– | –" if method == "random" else f"{above} | {below}"
        lines.append(f"| {method} | {low} | {high} | {first} | {apart} | {len(mine)} |")
    return lines
