"""`bonsai COMMAND …`: finds the command, derives its arguments from its dataclass, turns errors into exit codes.

A command is a module of this package with a dataclass `Arguments`, whose docstring is the command's help, and a
function `run(arguments) -> int`; `MARKERS`, where it has them, say how tyro reads its arguments, and `expanded`, where
it has it, what it reads in their place. Exit codes: 0 done, 2 a wrong setting, bad input or a refusal of the file
system, 130 interrupted.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shlex
import sys
from collections.abc import Sequence
from types import ModuleType

import rich  # noqa: F401  a missing workshop extra is noticed here, before anything is done
import tyro

from torchbonsai.core.errors import PruningError, message

COMMANDS = {
    "compare": "compare ways of pruning by real training, with controls and intervals",
    "explain": "which channels of a model can be removed, which go together, what is frozen and why",
    "prune": "any model, no data needed: the plan shown, verified, applied, saved",
    "export": "a saved network as ONNX or .pt2, which need no torchbonsai",
    "recipe": "a paper's procedure on your own model and data, with its control arms",
    "measure": "networks side by side: MACs, parameters, bytes, peak memory, latency on several runtimes",
    "demo": "four verified cuts, then a small comparison, in a few minutes",
}
OK, WRONG, INTERRUPTED = 0, 2, 130


def main(arguments: Sequence[str]) -> int:
    """Run `bonsai` with these arguments; returns the exit code."""
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
        return OK
    if name == "--version":
        print(importlib.metadata.version("torchbonsai"))
        return OK
    if name not in COMMANDS:
        print(f"bonsai has no command {name!r}\n\n{usage()}", file=sys.stderr)
        return WRONG
    return _guarded(importlib.import_module(f"torchbonsai.cli.{name}"), name, rest)


def usage() -> str:
    """The list of commands."""
    lines = [f"  {name:<10} {does}" for name, does in COMMANDS.items()]
    return "usage: bonsai COMMAND [OPTIONS]\n\n" + "\n".join(lines) + "\n\nbonsai COMMAND --help tells its options."


def _guarded(command: ModuleType, name: str, arguments: Sequence[str]) -> int:
    try:
        markers = getattr(command, "MARKERS", ())
        given = getattr(command, "expanded", list)(arguments)
        parsed = tyro.cli(command.Arguments, prog=f"bonsai {name}", args=given, config=markers)
        return int(command.run(parsed))
    except PruningError as error:
        print(f"bonsai {name}: {error}", file=sys.stderr)
        return WRONG
    except BrokenPipeError:  # the reader of a pipe has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as error:  # a full disk, a file where a folder must be, a file of somebody else's
        must, way_out = "files must be readable and writable", "make room, or choose another place"
        cause = "a full disk, missing rights, or something else in the way"
        print(f"bonsai {name}: {message(must, f'{type(error).__name__}: {error}', cause, way_out)}", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        again = shlex.join(["bonsai", name, *arguments])
        print(f"\ninterrupted. What is done is kept; to go on:\n  {again}", file=sys.stderr)
        return INTERRUPTED
