"""Puts what `make demo` printed into the README: `make demo | tee demo.log; python docs/demo.py demo.log`."""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
TABLE = "16x · equal-epochs"


def cuts(lines: list[str]) -> list[str]:
    """The lines of the four cuts."""
    found = [n for n, line in enumerate(lines) if " params " in line and "fewer MACs" in line]
    return lines[found[0] : found[-1] + 1]


def table(lines: list[str]) -> list[str]:
    """One table with its notes, the sentence that goes with it, and the choice."""
    start = lines.index(TABLE)
    stop = lines.index("", start)
    budget, fairness = TABLE.split(" · ")
    return [
        *lines[start:stop],
        *("", *paragraph(lines, f"At a budget of {budget} under {fairness}")),
        *("", *paragraph(lines, f"Best at {budget}: ")),
    ]


def about(lines: list[str]) -> list[str]:
    """Convention, data, hardware and versions; how long it took."""
    return [*paragraph(lines, "MACs: one "), "", next(line for line in lines if line.endswith(" s in all"))]


def paragraph(lines: list[str], begin: str) -> list[str]:
    """The lines from the one that starts with `begin` to the next empty one or the next sentence, wrapped anew."""
    start = next(n for n, line in enumerate(lines) if line.startswith(begin))
    ends = (n for n, line in enumerate(lines) if n > start and (not line or line.startswith(("Best at", "records "))))
    return textwrap.wrap(" ".join(lines[start : next(ends)]), 118, break_on_hyphens=False)


def filled(readme: str, log: str) -> str:
    """`readme` with its three blocks taken from `log`. Raises where a block or what belongs in it is missing."""
    lines = [line.rstrip() for line in log.splitlines()]
    for name, block in (("cuts", cuts), ("table", table), ("about", about)):
        pattern = rf"(<!-- {name}: made by docs/demo.py -->\n\n```text\n).*?(```\n)"
        text = "".join(f"{line}\n" for line in block(lines))
        readme, count = re.subn(pattern, lambda m, t=text: m[1] + t + m[2], readme, flags=re.DOTALL)
        if count != 1:
            raise ValueError(f"README.md needs one block called {name}, and has {count}")
    return readme


if __name__ == "__main__":
    log = Path(sys.argv[1]).read_text(encoding="utf-8")
    README.write_text(filled(README.read_text(encoding="utf-8"), log), encoding="utf-8")
