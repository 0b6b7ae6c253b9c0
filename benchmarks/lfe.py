"""Linear filter ensembles on ResNet-56: replay behind the gate beside the naive loop, and how many masks designs need.

    python benchmarks/lfe.py [--cifar10 FOLDER] [--images 256] [--batch 64] [--threads 2] [--naive-masks 2]

The 1,008 inner channels of the trained CIFAR-10 ResNet-56, `--masks` masks a channel, on images of the first half of
the test set (the network has memorised the training set). Arms, in turns, layer after layer, in one process: naive
(one mask, one full float32 forward over the images; timed on the first `--naive-masks` masks of a layer and taken times
the number of masks), replay in float32 (all masks; recording, and comparing with a full forward, included), replay with
bf16. The layers in `--whole` are scored naively with all their masks too, and the scores compared.
Then, on the layers in `--designs`, the spread of scores over seeds of the masks, for each design: how many masks it
needs for the standard error of independent masks. Goes on where it stopped: a layer is written when it is done.
Writes results/lfe.json and results/lfe.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import _trained
import numpy as np
import torch
from _lfe_page import naive_seconds, page
from _record import command, commit
from scipy.stats import spearmanr

import torchbonsai as tb
from torchbonsai.criteria import LinearFilterEnsembles, ScoringContext
from torchbonsai.criteria.linear_fit import fit_linear
from torchbonsai.criteria.masked_loss import MaskedLoss
from torchbonsai.graph.forward import undisturbed

RESULTS = Path(__file__).parent.parent / "results"
ARMS = ("naive", "float32", "bf16")
DESIGNS = (
    *(("independent", 0.5), ("antithetic", 0.5), ("hadamard", 0.5)),
    *(("independent", 0.9), ("antithetic", 0.9), ("balanced", 0.9)),
)


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, help="folder of the python batches; else restored from the shared data")
    parser.add_argument("--depth", type=int, default=56)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--masks", type=float, default=2, help="a channel")
    parser.add_argument("--naive-masks", type=int, default=2, help="a layer, timed")
    parser.add_argument("--whole", nargs="*", default=["layer1.4.conv1", "layer2.4.conv1", "layer3.4.conv1"])
    parser.add_argument("--designs", nargs="*", default=["layer2.8.conv1", "layer3.7.conv1"])
    parser.add_argument("--repeats", type=int, default=12, help="seeds a design")
    parser.add_argument("--out", type=Path, default=RESULTS / "lfe.json")
    return parser.parse_args()


def main() -> None:
    """Every layer that is not in the file yet, then the page."""
    given = options()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")
    record = {
        "command": command(__file__),
        "commit": commit(),
        "settings": settings(given),
        "layers": {},
        "designs": {},
    }
    if given.out.exists():
        before = json.loads(given.out.read_text())
        record = before if before["settings"] == record["settings"] else record
    bench = Bench(given)
    for name in bench.names:
        if name not in record["layers"]:
            record["layers"][name] = bench.layer(name)
            _trained.write(given.out, record)
            print(line(name, record["layers"][name]), flush=True)
    for name in given.designs:
        if name not in record["designs"]:
            record["designs"][name] = bench.designs(name)
            _trained.write(given.out, record)
    given.out.with_suffix(".md").write_text(page(record))
    print(page(record))


def settings(given: argparse.Namespace) -> dict[str, Any]:
    """What decides a measurement."""
    return {k: v for k, v in vars(given).items() if k not in ("out", "cifar10")}


def clocks() -> np.ndarray:
    """Wall and processor seconds."""
    return np.array([time.perf_counter(), time.process_time()])


class Bench:
    """The network, the images, and the three arms."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.model = _trained.resnet(given.depth)
        batches = _trained.choosing(_trained.cifar10(given.cifar10), given.images, given.batch)
        graph = tb.trace(self.model, batches[0][0][:1])
        self.context = ScoringContext(graph, self.model, batches)
        self.names = [g.name for g in graph.groups if g.name.startswith("layer") and g.name.endswith("conv1")]
        self.arms: dict[str, MaskedLoss] = {}

    def masks(self, name: str, per_channel: float, seed: int = 0, **design: Any) -> Any:
        """The masks that the criterion would draw."""
        group = self.context.graph.by_name[name]
        criterion = LinearFilterEnsembles(masks_per_channel=per_channel, **design)
        return criterion.first_masks(group.size, np.random.default_rng((seed, self.context.graph.groups.index(group))))

    def losses(self, arm: str, name: str, masks: Any) -> tuple[np.ndarray, np.ndarray]:
        """The losses, and the seconds they took: (wall, processor)."""
        group = self.context.graph.by_name[name]
        start = clocks()
        if arm not in self.arms:
            with undisturbed(self.model):
                made = MaskedLoss(self.context, self.context.loss, replay=arm != "naive", half=arm == "bf16")
            self.arms[arm] = made
        with undisturbed(self.model):
            found = self.arms[arm].losses(np.arange(group.offset, group.offset + group.size), masks)
        if arm != "naive" and self.arms[arm].why:
            sys.exit(f"nothing was replayed: {self.arms[arm].why}")
        return found, clocks() - start

    def layer(self, name: str) -> dict[str, Any]:
        """All arms on one layer."""
        masks = self.masks(name, self.given.masks)
        whole = name in self.given.whole
        sample = masks if whole else np.unique(masks, axis=0)[: self.given.naive_masks]
        self.losses("naive", name, sample[:1])  # warm
        naive, seconds = self.losses("naive", name, sample)
        row: dict[str, Any] = {
            "masks": len(masks),
            "naive_timed": len(np.unique(sample, axis=0)),
            "naive_s": list(seconds),
        }
        row["distinct"] = len(np.unique(masks, axis=0))
        y = {}
        for arm in ("float32", "bf16"):
            y[arm], seconds = self.losses(arm, name, masks)
            row[f"{arm}_s"] = list(seconds)
            fit = fit_linear(masks, -y[arm])
            row[arm] = {"scores": fit.effects.tolist(), "errors": fit.standard_errors.tolist(), "r2": fit.r_squared}
        again, _ = self.losses("float32", name, sample)
        row["loss_difference"] = float(np.abs(again - naive).max())
        row["loss_spread"] = float(y["float32"].std())
        row["rank_correlation"] = float(spearmanr(row["float32"]["scores"], row["bf16"]["scores"]).statistic)
        if whole:
            scores = fit_linear(masks, -naive).effects.numpy()
            row["naive_scores"] = scores.tolist()
        return row

    def designs(self, name: str) -> list[dict[str, Any]]:
        """The spread of scores over seeds of the masks, for each design at about the same number of masks."""
        rows = []
        for design, keep in DESIGNS:
            fits = []
            for seed in range(1, self.given.repeats + 1):
                masks = self.masks(name, 2.5, seed, design=design, keep=keep)
                fits.append(fit_linear(masks, -self.losses("float32", name, masks)[0]))
            effects = np.stack([fit.effects.numpy() for fit in fits])
            spread = float(np.sqrt(effects.var(0, ddof=1).mean()))
            said = float(np.sqrt(np.mean([fit.standard_errors.numpy() ** 2 for fit in fits])))
            row = {"design": design, "keep": keep, "masks": fits[0].masks, "spread": spread, "said": said}
            row["scores"] = float(effects.mean(0).std())
            rows.append(row)
            print(name, row, flush=True)
        return rows


def line(name: str, row: dict[str, Any]) -> str:
    """One line of the terminal."""
    naive = naive_seconds(row)
    seconds = {arm: np.array(row[f"{arm}_s"]) for arm in ARMS[1:]}
    ratios = "  ".join(
        f"{a} {s[0]:.1f} s ({naive[0] / s[0]:.1f}x, cpu {naive[1] / s[1]:.1f}x)" for a, s in seconds.items()
    )
    return (
        f"{name:16} {row['masks']} masks  naive {naive[0]:.1f} s  {ratios}  losses differ by "
        f"{row['loss_difference']:.1e} (spread {row['loss_spread']:.2g})  "
        f"rank correlation {row['rank_correlation']:.4f}"
    )


if __name__ == "__main__":
    main()
