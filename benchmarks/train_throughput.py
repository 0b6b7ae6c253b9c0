"""Images a second in training, beside loops written by hand.

    python benchmarks/train_throughput.py [--networks resnet20 …] [--cifar10 FOLDER] [--rounds 5] [--threads 1]

Ours (`training.loop.fit`, crop and flip, in the arithmetic that `--precision auto` chooses) against (a) a plain PyTorch
loop in float32 with a DataLoader, the best of 0, 1 and 2 workers, and (b) the same with all data on the device. All
arms take turns in one process on the same network, images, batch and threads; an arm's figure is the median over the
rounds after one that is not counted. The mean losses of the first and last turn are told: all arms learn. A network
that misses its target has a profile of what bounds it in the record; of all it has the time of the convolutions and
linear layers alone, in both arms' arithmetic. LeNet has 1x28x28 images, the embedded ones, the
others CIFAR-10. On CUDA also a loop of cifar10-airbench's structure (`_airbench_loop.py`) in the
precision that ours has. A network whose row is in the results file, with the same settings, is not measured again.
Writes results/train_throughput.json and .md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from _airbench_loop import airbench
from _contractions import contractions_alone
from _plain_loops import Turn, on_device, with_loader
from _record import by_op, command, is_here
from _throughput_page import Row, page, ratios, row_text, targets, verdict
from _trained import cifar10
from torch import nn

from torchbonsai.cost.latency import device_name
from torchbonsai.data import DataConfig, Splits, TrainSplit, load, normalise
from torchbonsai.models import ModelConfig, build
from torchbonsai.training import TrainConfig, fit
from torchbonsai.training.fastest import CANDIDATES, fastest, measure

STEPS = {"lenet": 24, "resnet20": 6, "resnet56": 3, "vgg16_bn": 2, "mobilenet_v2": 2}
"""Steps a turn: a second or so."""
RESULTS = Path(__file__).parent.parent / "results"


def main() -> None:
    """Measure every network, print a row each, write both files after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--cifar10", type=Path, help="folder of the python batches; else restored from the shared data")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--training-steps", type=int, default=30 * 391, help="length that compiling has to pay for")
    parser.add_argument("--out", type=Path, default=RESULTS / "train_throughput.json")
    options = parser.parse_args()
    if not is_here(options.device):
        return
    torch.set_num_threads(options.threads)
    if options.device == "cpu":
        print("no CUDA: the loop of cifar10-airbench's structure is skipped", flush=True)
    settings = {k: getattr(options, k) for k in ("rounds", "batch", "threads", "device", "training_steps")}
    record = opened(options.out, settings)
    record["commands"] += {command(__file__)} - set(record["commands"])
    for name in options.networks:
        if name not in record["rows"]:
            record["rows"][name] = measured(name, options, targets(record))
            write(record, options.out)
        if "contractions_alone" not in record["rows"][name]:
            record["rows"][name]["contractions_alone"] = alone(name, record["rows"][name]["chosen"], options)
            write(record, options.out)
        print(row_text(name, record["rows"][name]), flush=True)
    options.out.with_suffix(".md").write_text(page(record))
    print(verdict(record))


def write(record: Row, path: Path) -> None:
    """What is measured so far."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


def opened(path: Path, settings: Row) -> Row:
    """The record to go on with, or a new one where there is none with these settings on this machine."""
    about = {
        "settings": settings,
        "hardware": f"{device_name(torch.device(settings['device']))}, {os.cpu_count()} cores",
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "bf16_instructions": bf16_instructions(settings["device"]),
    }
    if path.exists():
        old = json.loads(path.read_text())
        if all(old.get(k) == v for k, v in about.items()):
            return old
    return {"commands": [], "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}", **about, "rows": {}}


def bf16_instructions(device: str) -> bool:
    """Whether the device computes bfloat16 itself."""
    if device != "cpu":
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def images(name: str, count: int, folder: Path | None) -> Splits:
    """So many training images of the size that the network was made for."""
    splits = load(DataConfig("fashion-target-28")) if name == "lenet" else cifar10(folder)
    rows = torch.arange(count) % len(splits.train)
    return replace(splits, train=TrainSplit(splits.train.x[rows], splits.train.y[rows]))


def measured(name: str, options: argparse.Namespace, aims: dict[str, float]) -> Row:
    """All arms on one network, in turns; with a profile where ours is less than so many times as fast as another."""
    count, device = STEPS[name] * options.batch, torch.device(options.device)
    splits = images(name, count, options.cifar10)

    def network() -> nn.Module:
        return build(ModelConfig(name, splits.in_shape, splits.classes), seed=0).to(device)

    config = TrainConfig(1, lr=0.01, warmup_epochs=0, batch_size=options.batch, augment=("crop", "flip"))
    batch = normalise(splits.train.x[: options.batch].to(device), splits), splits.train.y[: options.batch].to(device)
    tried = measure(network, batch, config, splits.classes, options.training_steps)
    best = fastest(tried, options.training_steps)
    chosen = best.arithmetic
    config = replace(config, precision=chosen.precision, channels_last=chosen.channels_last, compile=chosen.compile)
    arms = {f"a, {n} workers": with_loader(network(), splits, options.batch, n, device) for n in (0, 1, 2)}
    arms |= {"b": on_device(network(), splits, options.batch, device), "ours": ours(network(), splits, config)}
    if device.type == "cuda":
        dtype = torch.bfloat16 if chosen.precision == "bf16" else torch.float32
        arms["airbench"] = airbench(network(), splits, options.batch, dtype)
    seconds, processor, losses = in_turns(arms, options.rounds)
    speed = {arm: round(count / statistics.median(times), 2) for arm, times in seconds.items()}
    row = {
        "chosen": chosen.name,
        "first_step_seconds": best.first_seconds,
        "candidates": {m.arithmetic.name: m.note or round(options.batch / m.step_seconds, 2) for m in tried},
        "images_per_turn": count,
        "images_per_second": speed,
        "processor_time_b": round(statistics.median(processor["b"]) / statistics.median(processor["ours"]), 3),
        "losses": losses,
        "turns_seconds": {arm: [round(t, 4) for t in times] for arm, times in seconds.items()},
    }
    if any(ratios(row)[other] < aim for other, aim in aims.items()):
        row["profile"] = {arm: by_op(arms[arm]) for arm in ("ours", "b")}
    return row


def alone(name: str, chosen: str, options: argparse.Namespace) -> dict[str, float]:
    """`contractions_alone` of the network on a batch."""
    splits, device = images(name, options.batch, options.cifar10), torch.device(options.device)
    model = build(ModelConfig(name, splits.in_shape, splits.classes), seed=0).to(device)
    (how,) = (arithmetic for arithmetic in CANDIDATES if arithmetic.name == chosen)
    return contractions_alone(model, normalise(splits.train.x.to(device), splits), how)


def ours(model: nn.Module, splits: Splits, config: TrainConfig) -> Turn:
    """The library's loop, an epoch of it."""
    return lambda: fit(model, splits.train, config, splits=splits).loss


def in_turns(arms: dict[str, Turn], rounds: int) -> tuple[dict[str, list[float]], ...]:
    """Wall seconds, processor seconds and mean losses of every turn of every arm.

    The first turn of each is not timed: it is where code is compiled and workers start.
    """
    seconds, processor, losses = ({arm: [] for arm in arms} for _ in range(3))
    for number in range(rounds + 1):
        for arm, turn in arms.items():
            start, used = time.perf_counter(), time.process_time()
            losses[arm].append(round(turn(), 4))  # it ends with a number on the host: the device has finished
            if number:
                seconds[arm].append(time.perf_counter() - start)
                processor[arm].append(time.process_time() - used)
    return seconds, processor, losses


if __name__ == "__main__":
    main()
