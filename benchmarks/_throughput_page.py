"""The page of train_throughput: ratios beside their targets, what was missed, and what bounds it."""

from __future__ import annotations

import statistics
from typing import Any

from _record import in_words, several

TARGETS = {True: {"a": 2.5, "b": 2.0}, False: {"a": 1.5, "b": 1.3}}
"""With bf16 instructions or without: how many times faster ours is to be, in the median over the networks."""
Row = dict[str, Any]


def plain(row: Row) -> float:
    """The best of the DataLoaders."""
    return max(v for arm, v in row["images_per_second"].items() if arm.startswith("a,"))


def ratios(row: Row) -> dict[str, float]:
    """How many times as many images a second as each of the others."""
    speed = row["images_per_second"]
    others = {"a": plain(row), "b": speed["b"]} | ({"airbench": speed["airbench"]} if "airbench" in speed else {})
    return {name: speed["ours"] / other for name, other in others.items()}


def row_text(name: str, row: Row) -> str:
    """One line of the terminal."""
    told = "  ".join(f"{value:.2f} x ({arm})" for arm, value in ratios(row).items())
    return f"{name:14} {row['images_per_second']['ours']:>9.1f} images/s  {told}  {row['chosen']}"


def medians(record: Row) -> dict[str, float]:
    """Of the ratios, over the networks."""
    rows = [ratios(row) for row in record["rows"].values()]
    return {name: statistics.median(r[name] for r in rows) for name in rows[0]}


def targets(record: Row) -> dict[str, float]:
    """Arm -> how many times as fast ours is to be."""
    return TARGETS[record["bf16_instructions"]] if record["settings"]["device"] == "cpu" else {"airbench": 1 / 1.2}


def verdict(record: Row) -> str:
    """The medians beside the targets."""
    found = medians(record)
    parts = [
        f"{found[k]:.2f} times ({k}), target {v:.2f}: {'met' if found[k] >= v else 'MISSED'}"
        for k, v in targets(record).items()
    ]
    return f"median over {len(record['rows'])} networks: " + "; ".join(parts)


def page(record: Row) -> str:
    """The table, with its medians."""
    s = record["settings"]
    lines = [
        "# Training throughput",
        "",
        f"{several(record['commands'])}, {record['date']}. {record['hardware']}; torch {record['versions']['torch']}, "
        f"Python {record['versions']['python']}; {s['threads']} thread(s), batch {s['batch']}.",
        "",
        f"Images a second, median of n = {s['rounds']} turns; all arms in turns in one process. (a) DataLoader, best "
        "of 0, 1, 2 workers; (b) all data on the device; both float32, contiguous, eager. Ours: `fit` in what "
        f"`--precision auto` chooses for a training of {s['training_steps']} steps. The column in processor time "
        "is ours to (b) again, which on a busy machine says less of the neighbours.",
        "",
        "| network | (a) | (b) | ours | ours / (a) | ours / (b) | in processor time | ours / airbench | chosen "
        "| loss (b) | loss ours |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in record["rows"].items():
        r, speed = ratios(row), row["images_per_second"]
        last = f"{r['airbench']:.2f}" if "airbench" in r else "no CUDA"
        lines.append(
            f"| {name} | {plain(row):.1f} | {speed['b']:.1f} | {speed['ours']:.1f} | {r['a']:.2f} | {r['b']:.2f} "
            f"| {row['processor_time_b']:.2f} | {last} | {row['chosen']} | {learnt(row, 'b')} | {learnt(row, 'ours')} |"
        )
    return "\n".join([*lines, "", verdict(record) + ".", *missed(record), *contractions(record), ""])


def learnt(row: Row, arm: str) -> str:
    """The mean loss of the first turn and of the last."""
    return f"{row['losses'][arm][0]:.2f} → {row['losses'][arm][-1]:.2f}"


def missed(record: Row) -> list[str]:
    """A line for each network that missed a target: what its time goes into."""
    rows = {name: row["profile"] for name, row in record["rows"].items() if "profile" in row}
    lines = [f"- {name}: ours {in_words(p['ours'])}; (b) {in_words(p['b'])}" for name, p in rows.items()]
    return ["", "Networks that missed a target, by what their time goes into:", "", *lines] if lines else []


def contractions(record: Row) -> list[str]:
    """How many times faster a step's convolutions and linear layers are in ours."""
    lines = [
        "",
        "Convolutions and linear layers of a batch, forward and backward, each timed by itself (median of 5) and added "
        "up: how many times faster they are in what ours has, without the loop, the norms and the optimizer around it.",
        "",
        "| network | (b) ms | ours ms | times faster |",
        "|---|---|---|---|",
    ]
    for name, row in record["rows"].items():
        if "contractions_alone" in row:
            b, ours = row["contractions_alone"]["b"], row["contractions_alone"]["ours"]
            lines.append(f"| {name} | {1e3 * b:.1f} | {1e3 * ours:.1f} | {b / ours:.2f} |")
    return lines
