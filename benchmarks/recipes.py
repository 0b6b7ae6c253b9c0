"""The recipes' records: each paper's procedure on real data, with its controls, by one command.

    python benchmarks/recipes.py NAME… [--cifar FOLDER] [--mnist FOLDER] [--work FOLDER]
    python benchmarks/recipes.py --retell NAME…

NAME is one of those in `RECORDS` below: `small-…` are the sizes that docs/recipes.md names for two cores, the others
longer ones. --cifar: the python batches of CIFAR-10 and, for a pre-trained start, of CIFAR-100, in one folder; else
restored from TORCHBONSAI_DATA. A run that was broken off goes on where it stopped, in --work. What comes of it is kept
in results/recipes/NAME: the records, study.json, the report, and README.md with what the command printed and how long
its stages took. Folders of this machine are left out of what is kept.

--retell runs nothing: it reads the records that are kept, and makes sentences, tables and report anew with the code as
it is now. What was measured, and how long that took, stays as it was.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from _record import commit
from _trained import data_folder, restored

from torchbonsai.cli.compare import show
from torchbonsai.report import page as report
from torchbonsai.study.about import FILE, About, read_study, write_about
from torchbonsai.study.best import pick
from torchbonsai.study.recipes import RECIPES
from torchbonsai.study.recipes.settings import RecipeSettings

RESULTS = Path(__file__).parent.parent / "results" / "recipes"
EFFICIENTNET = Path(__file__).parent.parent / "examples" / "efficientnet_lite0.py"
FAST = "--precision bf16 --channels-last"
MLP = f"--model mlp --data mnist --data-dir MNIST --augment --lr 0.05 {FAST}"
SMALL = (
    "--data cifar10 --data-dir CIFAR --width 0.25 --limit-train 5000 --val-size 1000 --augment flip "
    f"--warmup-epochs 0.2 --batch-size 32 --lr 0.05 {FAST}"
)
PRETRAINED = "linear-filter-ensembles --data cifar10 --data-dir CIFAR --test-half --only 'layer*.conv1' " + FAST
VGG = f"--data cifar10 --data-dir CIFAR --width 0.25 --augment flip {FAST}"

RECORDS = {
    "network-trimming-lenet": "network-trimming --data mnist --data-dir MNIST --start-epochs 6 --rounds 5 "
    f"--round-epochs 2 --no-equal-compute {FAST}",
    "pruning-from-scratch-vgg16": f"pruning-from-scratch {VGG} --start-epochs 3 --epochs 3 --gate-epochs 5 "
    "--score-images 10000 --schedule cosine --warmup-epochs 0.3 --no-scratch-b --no-equal-compute",
    "pretraining-cifar100-vgg16": f"pretraining-impact {VGG} --limit-train 25000 --batch-size 64 --lr 0.05 "
    "--warmup-epochs 0.1 --source cifar100 --source-epochs 3 --start-epochs 3 --rounds 10 --share 0.1 "
    "--round-epochs 0.3 --round-lr 0.01 --no-equal-compute",
    "pruning-from-scratch-searches": f"pruning-from-scratch {VGG} --limit-train 25000 --batch-size 64 --lr 0.05 "
    "--start-epochs 3 --epochs 3 --gate-epochs 3 --score-images 5000 --schedule cosine --warmup-epochs 0.3 "
    "--searches 4 --checkpoints 3 --min-channels 2 --no-equal-compute",
    "pretraining-efficientnet-lite0": "pretraining-impact --model examples.efficientnet_lite0:build --image-size 64 "
    "--data cifar10 --data-dir CIFAR --source WEIGHTS --limit-train 45000 --val-size 2000 --batch-size 32 --lr 0.03 "
    "--warmup-epochs 0.1 --augment flip --channels-last --start-epochs 4.5 --rounds 3 --share 0.2 --round-epochs 0.2 "
    "--round-lr 0.01 --no-equal-compute",
    "bonsai-hypothesis-vgg16": f"bonsai-hypothesis {VGG} --methods l2 taylor fpgm --start-epochs 2.5 --rounds 4 "
    "--round-epochs 0.5 --no-equal-compute",
    "linear-filter-ensembles-mlp": f"linear-filter-ensembles {MLP} --start-epochs 10 --hold-out 1000 "
    "--rounds 3 --round-epochs 4 --budget 4x --min-channels 1",
    "linear-filter-ensembles-resnet20": f"{PRETRAINED} --model resnet20 --checkpoint 'SHARED/weights/resnet20-*.th' "
    "--limit-train 20000 --methods lfe-quick lfe-agreement-quick --score-images 500 --lr 0.01 --warmup-epochs 0 "
    "--rounds 3 --round-epochs 0.5 --no-equal-compute",
    **{
        f"linear-filter-ensembles-resnet{depth}": f"{PRETRAINED} --model resnet{depth} "
        f"--checkpoint 'SHARED/weights/resnet{depth}-*.th' --limit-train 10000 --methods lfe-quick lfe-agreement-quick "
        "--score-images 256 --lr 0.01 --warmup-epochs 0 --rounds 2 --round-epochs 0.5 --no-equal-compute"
        for depth in (32, 44, 56)
    },
    "small-network-trimming": "network-trimming --data mnist --data-dir MNIST --limit-train 10000 --val-size 2000 "
    f"--start-epochs 4 --rounds 4 --round-epochs 2 {FAST}",
    "small-bonsai-hypothesis": f"bonsai-hypothesis {SMALL} --methods l2 --start-epochs 3 --rounds 3 "
    "--round-epochs 0.75 --budget 2x --min-channels 1 --no-equal-compute",
    "bonsai-hypothesis-equal-compute": f"bonsai-hypothesis {VGG} --limit-train 25000 --batch-size 64 --lr 0.05 "
    "--warmup-epochs 0.1 --methods taylor --start-epochs 2.5 --rounds 4 --round-epochs 0.6 --budget 2x",
    "small-pretraining-impact": f"pretraining-impact {SMALL} --source cifar100 --source-epochs 0.5 --start-epochs 2 "
    "--rounds 3 --share 0.2 --round-epochs 0.75 --no-equal-compute",
    "small-linear-filter-ensembles": f"linear-filter-ensembles {MLP} --limit-train 5000 --val-size 1000 "
    "--hold-out 500 --start-epochs 4 --rounds 3 --round-epochs 2 --budget 4x --min-channels 1",
    "small-pruning-from-scratch": f"pruning-from-scratch {SMALL} --schedule cosine --start-epochs 3 --epochs 3 "
    "--gate-epochs 4 --score-images 2500 --min-channels 2 --no-equal-compute",
    "small-pruning-from-scratch-searches": f"pruning-from-scratch {SMALL} --schedule cosine --start-epochs 3 "
    "--epochs 3 --gate-epochs 4 --score-images 2500 --searches 4 --checkpoints 3 --no-scratch-b --min-channels 2 "
    "--no-equal-compute",
}
"""What is run. CIFAR, MNIST and SHARED stand for the folders of the data, WEIGHTS for the file of the package that
examples/efficientnet_lite0.py names (run it from the repository's root)."""
PLACES = ("--data-dir", "--out", "--checkpoint", "--source")


def main() -> None:
    """Every recipe that was named, one after the other: run, or told again."""
    given = options()
    if given.retell:
        for name in given.names:
            retell(RESULTS / name)
        return
    folders = {"CIFAR": given.cifar, "MNIST": given.mnist}
    for name in given.names:
        out = given.work / name
        words = [filled(word, folders) for word in shlex.split(RECORDS[name])]
        command = [sys.executable, "-m", "torchbonsai", "recipe", *words, "--out", str(out)]
        told = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if told.returncode != 0:
            sys.exit(f"{name} failed: see above")
        keep(name, out, told.stdout)
        print(told.stdout, flush=True)


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=RECORDS, metavar="NAME", help=", ".join(RECORDS))
    parser.add_argument("--cifar", type=Path, help="folder of the python batches; else restored")
    parser.add_argument("--mnist", type=Path, help="folder of the idx files")
    parser.add_argument("--work", type=Path, default=Path("bonsai-out/recipes"), help="where stages are kept")
    parser.add_argument("--retell", action="store_true", help="tell the kept records anew; nothing is run")
    given = parser.parse_args()
    if given.retell and (given.cifar or given.mnist or given.work != parser.get_default("work")):
        parser.error("--retell runs nothing: leave --cifar, --mnist and --work out")
    return given


def filled(word: str, folders: dict[str, Path | None]) -> str:
    """The word with the folder that it stands for, restored or found if none was given."""
    if word == "WEIGHTS":
        told = subprocess.run([sys.executable, EFFICIENTNET], stdout=subprocess.PIPE, text=True, check=True)
        return told.stdout.strip()
    first = word.split("/")[0]
    if first not in (*folders, "SHARED"):
        return word
    if first == "SHARED":
        (file,) = data_folder().glob(word.removeprefix("SHARED/"))
        return str(file)
    if folders[first] is None:
        folders[first] = data_folder() / "mnist" if first == "MNIST" else restored("cifar100")
    return str(folders[first])


def keep(name: str, out: Path, told: str) -> None:
    """Records, study and report under results/recipes, and a page that says what made them."""
    to = RESULTS / name
    shutil.rmtree(to, ignore_errors=True)
    (to / "records").mkdir(parents=True)
    about = json.loads((out / FILE).read_text())
    private = {str(out), *places_of(shlex.split(about["command"]))}
    for record in about["records"]:
        (to / "records" / record).write_text(hidden((out / "records" / record).read_text(), private))
    for file in (FILE,) if name.startswith("small-") else (FILE, report.FILE):
        (to / file).write_text(hidden((out / file).read_text(), private))
    commits = {"commit of the report": commit()}
    (to / "README.md").write_text(page(name, about, hidden(told, private), took(spent(out)), commits))


def retell(folder: Path) -> None:
    """Sentences, tables, what would be handed over, and report of what is kept in `folder`, by the code as it is now,
    in place.

    Leaves where nothing is kept, or what is kept is of another command than the one in `RECORDS`.
    """
    kept = (folder / "README.md").read_text() if folder.exists() else ""
    if ran(folder.name) not in kept.splitlines():
        sys.exit(f"{folder.name}: what is kept there is not of the command in RECORDS; run it without --retell")
    (took,) = re.findall(r"^Its stages took .*$", kept, re.MULTILINE)
    (first,) = re.findall(r"commit of the report ([\w+]+)", kept)
    study = read_study(folder)
    settings = settings_of(study.about)
    recipe = RECIPES[study.about.recipe](settings)
    sentences = tuple(recipe.sentences(study.records))
    choices = tuple(pick(study.records, c.budget, recipe.unit, Path(folder.name))[1] for c in study.about.choices)
    write_about(replace(study.about, sentences=sentences, method=recipe.method, choices=choices), folder)
    study = read_study(folder)
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        show(study)
    if (folder / report.FILE).exists():
        report.write_page(study)
    commits = {"commit of the report": first, "told again at commit": commit()}
    about = json.loads((folder / FILE).read_text())
    (folder / "README.md").write_text(page(folder.name, about, hidden(told.getvalue(), {str(folder)}), took, commits))


def settings_of(about: About) -> RecipeSettings:
    """The settings that a recipe was run with."""
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in about.config.items() if name != "type"}
    return RECIPES[about.recipe].config(**given)


def places_of(words: list[str]) -> list[str]:
    """Paths in a command line."""
    return [b for a, b in itertools.pairwise(words) if a in PLACES and "/" in b]


def hidden(text: str, private: set[str]) -> str:
    """The text with the last part of every path of this machine."""
    for path in sorted(private, key=len, reverse=True):
        text = text.replace(path, Path(path).name)
    return text


def spent(out: Path) -> dict[str, float]:
    """Seconds of all stages by kind."""
    found: dict[str, float] = {}
    for path in sorted((out / "stages").glob("*/record.json")):
        record: dict[str, Any] = json.loads(path.read_text())
        found[record["kind"]] = found.get(record["kind"], 0.0) + record["timing"]["seconds"]
    return found


def ran(name: str) -> str:
    """The line of a page that says which command was run."""
    return f"runs `bonsai recipe {RECORDS[name]}`."


def took(seconds: dict[str, float]) -> str:
    """How long the stages took, by kind."""
    kinds = ", ".join(f"{kind} {s:.0f} s" for kind, s in sorted(seconds.items(), key=lambda kv: -kv[1]) if s >= 1)
    return (
        f"Its stages took {sum(seconds.values()) / 60:.0f} minutes in all ({kinds}), by two processes of one thread at "
        "a time; other work ran beside them, so the times are upper bounds."
    )


def page(name: str, about: dict[str, Any], told: str, took: str, commits: dict[str, str]) -> str:
    """What was run, where, for how long, and what it printed. commits: what was done -> at which commit."""
    places = about["versions"] | commits | about["hardware"]
    return "\n".join(
        (
            f"# {name}\n",
            f"    python benchmarks/recipes.py {name}\n",
            f"{ran(name)}\n",
            f"{took}\n",
            ", ".join(f"{key} {value}" for key, value in places.items()) + ".\n",
            *(f"- {sentence}" for sentence in about["sentences"]),
            "",
            "```text",
            told.rstrip(),
            "```",
            "",
        )
    )


if __name__ == "__main__":
    main()
