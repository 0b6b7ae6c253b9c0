"""`bonsai prune`: any model, no data needed; the plan shown, verified, applied, saved."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from torchbonsai.artifacts.given import GivenModel
from torchbonsai.artifacts.save import save
from torchbonsai.cli.explain import heading
from torchbonsai.cli.given import ModelArguments
from torchbonsai.cli.images import ImageArguments
from torchbonsai.cli.told import told
from torchbonsai.core.errors import ConfigError, message
from torchbonsai.core.units import MACS_CONVENTION, human
from torchbonsai.graph.channel_graph import Frozen
from torchbonsai.pruning.prune import PruneResult, prune
from torchbonsai.selection.budget import Budget
from torchbonsai.study.methods import Method, criterion_of, needs_images, reads_labels
from torchbonsai.surgery.plan import PruningPlan, compose

_KEPT = ("macs", "params", "channels", "peak_bytes", "model_bytes")


@dataclass(frozen=True)
class Arguments:
    """Remove channels of a model until it costs what you say, and save the small network.

    At least one of the --keep- options (a share to keep, 0.5, or an absolute ceiling, an integer), --latency or
    --latency-ms. The small network is compared with the large one, removed channels masked, before anything is saved.
    """

    given: Annotated[ModelArguments, tyro.conf.arg(name="")]
    images: Annotated[ImageArguments, tyro.conf.arg(name="")]
    keep_macs: int | float | None = None
    """Of one forward pass of one input."""
    keep_params: int | float | None = None
    """Parameters."""
    keep_channels: int | float | None = None
    """Of the channels that can be removed."""
    keep_peak_bytes: int | float | None = None
    """Of the most that the activations of a forward pass take at a time."""
    keep_model_bytes: int | float | None = None
    """Of parameters and buffers."""
    latency: float | None = None
    """The share of the time of a forward pass to keep, as measured where --on says, to 10 %."""
    latency_ms: float | None = None
    """The same in milliseconds."""
    on: str | None = None
    """Where the network will run: cpu:onnxruntime, cpu:eager, cpu:compile, cuda:compile, cpu:eager:channels_last.
    Widths are then what that device likes, and the layers that are slow there get narrower first."""
    criterion: str = "l2"
    """What says which channels go: l2, l1, lamp, fpgm, bn-scale, synflow and random need no data; the other methods of
    bonsai compare (taylor, apoz, lfe, …) look at images of --data. package.module:factory is one of your own."""
    scope: Literal["global", "uniform", "knapsack"] = "global"
    """One ranking over all groups, the same share of each, or one ranking by score per cost."""
    round_to: int = 1
    """Widths are multiples of this; 8 or 16 suit most kernels."""
    min_channels: int | float = 1
    """No group gets narrower than this: 2 is a count, 0.05 a share of its channels, rounded up."""
    ignore: tuple[str, ...] = ()
    """Modules or parameters that stay whole; names or patterns like 'layer4.*'."""
    only: tuple[str, ...] = ()
    """Modules whose channels may go; all others stay whole."""
    prune_outputs: bool = False
    """Let the outputs lose channels too, as for a backbone whose reader is not here."""
    blocks: Literal["whole", "inside"] | None = None
    """Of attention heads and other equal blocks: whole ones leave, or the same positions inside each. Default: what
    leaves more to choose from."""
    fold: Literal["constant", "mean"] | None = None
    """What of removed channels goes into their readers' biases. constant: what they gave always, whatever the input (a
    norm's shift behind filters of zero), or over the images of --data; mean: what they gave on average over these."""
    out: str | None = None
    """Folder for the small network."""
    dry_run: bool = False
    """Show and verify, save nothing."""
    json: bool = False
    """Print JSON."""


def run(arguments: Arguments) -> int:
    """Prune, show, save."""
    budget = _budget(arguments)
    criterion = criterion_of(Method(arguments.criterion), arguments.given.seed)
    _check_images(arguments, needed=needs_images(criterion))
    given = arguments.given.opened()
    batches = arguments.images.batches(given, labelled=reads_labels(criterion))
    with told("torchbonsai"):
        result = prune(
            given.model,
            given.inputs,
            budget=budget,
            criterion=criterion,
            scope=arguments.scope,
            round_to=arguments.round_to,
            min_channels=arguments.min_channels,
            ignore=arguments.ignore,
            only=arguments.only or None,
            prune_outputs=arguments.prune_outputs,
            blocks=arguments.blocks,
            fold=arguments.fold,
            batches=batches,
        )
    folder = None if arguments.dry_run else _saved(given, result, str(arguments.out))
    if arguments.json:
        json.dump(as_json(given, result, folder), sys.stdout, indent=1)
        print()
    else:
        show(given, result, folder)
    return 0


def show(given: GivenModel, result: PruneResult, folder: Path | None) -> None:
    """The plan as a table, what is frozen, the cost before and after, the verification, where it lies."""
    console = Console(highlight=False, markup=False)
    console.print(Text(heading(given)), soft_wrap=True)
    console.print(plan_table(result))
    for frozen in held(result):
        console.print(Text(f"kept whole: {frozen.name}, {frozen.size} channels: {reason(frozen)}"), soft_wrap=True)
    for note in result.notes:
        console.print(Text(f"note: {note}"), soft_wrap=True)
    console.print(Text(costs(result)), soft_wrap=True)
    if result.latency is not None:
        console.print(Text(f"latency {result.latency}"), soft_wrap=True)
    console.print(Text(f"the small network {result.verification}"), soft_wrap=True)
    console.print(Text(where(folder)), soft_wrap=True)


def plan_table(result: PruneResult) -> Table:
    """A row a group: its channels before and after, and what else goes with it."""
    table = Table(box=None, pad_edge=False)
    table.add_column("made by", overflow="fold")
    table.add_column("channels", justify="right")
    table.add_column("kept", justify="right")
    for name, before, after in widths(result):
        group = result.graph.by_name[name]
        makers = list(dict.fromkeys(b.name.rpartition(".")[0] or b.name for b in group.bound("produces")))
        others = f" and {len(makers) - 1} more tied to it" if len(makers) > 1 else ""
        style = "dim" if before == after else ""
        table.add_row(Text(name + others), str(before), str(after), style=style)
    return table


def widths(result: PruneResult) -> list[tuple[str, int, int]]:
    """(group, channels before, channels after) in forward order; a group that was not selected from stays whole."""
    kept = {name: int(mask.sum()) for name, mask in result.selection.items()}
    return [(g.name, g.size, kept.get(g.name, g.size)) for g in result.graph.groups]


def held(result: PruneResult) -> list[Frozen]:
    """What is frozen by an op in the user's code, or because the user said so."""
    return [f for f in result.graph.frozen if f.source is not None]


def reason(frozen: Frozen) -> str:
    """Why, by which op at which line."""
    return f"{frozen.reason} ({frozen.source})" if frozen.source else frozen.reason


def costs(result: PruneResult) -> str:
    """Parameters and MACs before and after."""
    before, after = result.cost.before, result.cost.after
    return (
        f"parameters {human(before.params)} → {human(after.params)} ({after.params / before.params:.1%}), "
        f"MACs {human(before.macs)} → {human(after.macs)} ({after.macs / before.macs:.1%}); {MACS_CONVENTION}"
    )


def where(folder: Path | None) -> str:
    """How to get the saved network back."""
    if folder is None:
        return "nothing was saved (--dry-run)"
    lines = ("import torchbonsai as tb", f"model = tb.load({str(folder)!r})  # in eval mode")
    return "\n".join([f"saved in {folder}; to load it:", *(f"    {line}" for line in lines)])


def as_json(given: GivenModel, result: PruneResult, folder: Path | None) -> dict[str, Any]:
    """The same as data."""
    return {
        "model": given.name,
        "weights": given.weights,
        "groups": [{"name": name, "channels": before, "kept": after} for name, before, after in widths(result)],
        "frozen": [{"name": f.name, "channels": f.size, "reason": reason(f)} for f in result.graph.frozen],
        "notes": list(result.notes),
        "cost": asdict(result.cost),
        "latency": None if result.latency is None else asdict(result.latency),
        "verification": asdict(result.verification),
        "outputs": [{str(axis): k.tolist() for axis, k in axes.items()} for axes in result.plan.outputs],
        "folder": None if folder is None else str(folder),
    }


def _saved(given: GivenModel, result: PruneResult, out: str) -> Path:
    """Save against the original: what was cut before, in a folder that was given as the model, is composed."""
    plan: PruningPlan = result.plan if given.plan is None else compose(given.plan, result.plan)
    return save((result.model, plan), out, build=given.build, inputs=given.inputs)


def _budget(arguments: Arguments) -> Budget:
    kept = {name: getattr(arguments, f"keep_{name}") for name in _KEPT}
    amounts = kept | {"latency": arguments.latency, "latency_ms": arguments.latency_ms}
    if all(amount is None for amount in amounts.values()):
        must = "bonsai prune must be told how much to keep"
        options = ", ".join(f"--keep-{name.replace('_', '-')}" for name in _KEPT)
        raise _wrong(must, "no budget", f"give --keep-macs 0.5, or another of {options}, --latency, --latency-ms")
    if arguments.out is None and not arguments.dry_run:
        raise _wrong("the small network needs a folder", "no --out", "give --out DIR, or --dry-run to save nothing")
    return Budget(**amounts, on=arguments.on)


def _check_images(arguments: Arguments, *, needed: bool) -> None:
    data, criterion = arguments.images.data, arguments.criterion
    if data is None and (needed or arguments.fold == "mean"):
        what, instead = (criterion, "--criterion l2") if needed else ("--fold mean", "--fold constant")
        way_out = f"give --data NAME, with --data-dir DIR where it is not embedded, or {instead}, which needs none"
        raise _wrong(f"{what} needs images to look at", "no --data", way_out)
    if data is not None and not needed and arguments.fold is None:
        must = f"--data is for --fold and for a criterion that needs images, which {criterion} does not"
        raise _wrong(must, f"--data {data}", "leave it out, or give --fold mean or a --criterion like taylor too")


def _wrong(must: str, got: str, way_out: str) -> ConfigError:
    return ConfigError(message(must, got, "an option that was left out", way_out))
