"""`bonsai`, and `python -m torchbonsai`."""

from __future__ import annotations

import sys

INSTALL = "pip install 'torchbonsai[workshop]'"
WORKSHOP = frozenset(
    {"altair", "cattrs", "filelock", "jinja2", "markupsafe", "pandas", "PIL", "rich", "tyro", "vl_convert"}
)


def main() -> int:
    """Run the command line on `sys.argv`; returns the exit code. Without the workshop extra, says how to get it."""
    try:
        from torchbonsai.cli.main import main as run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in WORKSHOP:
            raise
        print(f"bonsai needs {error.name}, which is not installed: {INSTALL}", file=sys.stderr)
        return 2
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
