"""`bonsai prune`: shown, verified, applied, saved; or one error and nothing written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import torchbonsai as tb
from torchbonsai.artifacts.folder import MANIFEST, PLAN, WEIGHTS
from torchbonsai.models import ModelConfig, build


def test_the_plan_is_shown_verified_and_saved(bonsai) -> None:
    said = bonsai("prune lenet --keep-macs 0.5 --round-to 5 --seed 3 --out small")
    assert (said.code, said.err) == (0, "")
    assert "lenet on 1x1x28x28, weights random, seed 3" in said.out
    assert "equals the masked network, relative error" in said.out
    assert "tb.load('small')" in said.out
    small, dense = tb.load("small"), build(ModelConfig("lenet", (1, 28, 28)), seed=3)
    assert not small.training
    assert small.conv1.out_channels % 5 == small.conv2.out_channels % 5 == small.fc1.out_features % 5 == 0
    assert {p.name for p in Path("small").iterdir()} == {WEIGHTS, PLAN, MANIFEST}
    kept = json.loads(Path("small", PLAN).read_text())["kept"]["conv1.weight"]["0"]
    assert torch.equal(small.conv1.weight, dense.conv1.weight[kept])
    row = next(line.split() for line in said.out.splitlines() if line.startswith("conv2"))
    assert row == ["conv2", "50", str(small.conv2.out_channels)]


def test_json_says_the_cost_and_the_widths(bonsai) -> None:
    told = json.loads(bonsai("prune lenet --keep-params 100000 --criterion l1 --out small --json").out)
    assert told["cost"]["before"]["params"] == 431080
    assert 95_000 < told["cost"]["after"]["params"] <= 100_000
    assert told["cost"]["after"]["params"] == sum(p.numel() for p in tb.load("small").parameters())
    assert told["verification"]["exact"] is True
    assert [g["name"] for g in told["groups"]] == ["conv1", "conv2", "fc1"]
    assert told["folder"] == "small"


def test_options_reach_the_engine(bonsai) -> None:
    def kept(options: str) -> dict[str, int]:
        return _kept(bonsai(f"prune lenet --dry-run --json {options}").out)

    assert kept("--keep-channels 0.5 --scope uniform") == {"conv1": 10, "conv2": 25, "fc1": 250}
    assert kept("--keep-channels 100 --ignore conv1 --min-channels 7")["conv2"] >= 7
    assert list(kept("--keep-channels 0.5 --ignore conv1 fc1")) == ["conv2"]
    assert list(kept("--keep-channels 0.5 --only fc1")) == ["fc1"]
    both = kept("--keep-macs 0.6 --keep-params 0.3 --criterion random --seed 1")
    assert both != kept("--keep-macs 0.6 --keep-params 0.3 --criterion random --seed 2")
    assert both == kept("--keep-macs 0.6 --keep-params 0.3 --criterion random --seed 1")


def test_a_dry_run_writes_nothing(bonsai, untouched) -> None:
    said = bonsai("prune lenet --keep-macs 0.5 --dry-run")
    assert said.code == 0
    assert "equals the masked network" in said.out
    assert "nothing was saved" in said.out
    assert untouched() == []


def test_a_saved_network_is_cut_again_against_the_original(bonsai) -> None:
    dense = build(ModelConfig("lenet", (1, 28, 28)), seed=0)
    torch.save(dense.state_dict(), "dense.pt")
    assert bonsai("prune lenet --weights dense.pt --keep-channels 0.5 --out one").code == 0
    assert bonsai("prune one --keep-channels 0.5 --scope uniform --out two").code == 0
    one, two = tb.load("one"), tb.load("two")
    assert two.conv1.out_channels == (one.conv1.out_channels + 1) // 2
    kept = json.loads(Path("two", PLAN).read_text())["kept"]["conv1.weight"]["0"]
    assert torch.equal(two.conv1.weight, dense.conv1.weight[kept])
    assert bonsai("prune two --keep-channels 0.9 --out two").code == 0  # over itself


def test_a_module_with_hard_coded_widths(bonsai) -> None:
    said = bonsai("prune command_nets:baked --keep-channels 0.6 --out small")
    assert said.code == 0, said.err
    small = tb.load("small")
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert small(x).shape == (2, 4)
    assert small.first.out_channels == 6
    assert small.stem.out_channels == 14
    assert "kept whole: stem, 14 channels: the width is baked into the code" in said.out
    assert "split([4, 10], 1)" in said.out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("prune lenet --out small", "--keep-macs"),
        ("prune lenet --keep-macs 0.5", "--dry-run"),
        ("prune lenet --keep-macs 0 --out small", "positive int"),
        ("prune lenet --keep-macs 1.5 --out small", "share to keep"),
        ("prune lenet --keep-macs half --out small", "half"),
        ("prune lenet --keep-macs 100 --out small", "reachable floor"),
        ("prune lenet --keep-macs 0.5 --ignore nothing_like_it --out small", "nothing_like_it"),
        ("prune lenet --keep-macs 0.5 --round-to 0 --out small", "round_to"),
        ("prune lenet --keep-macs 0.5 --criterion apoz --out small", "--data NAME"),
        ("prune lenet --keep-macs 0.5 --criterion l3 --out small", "ours are random, l1"),
        ("prune lenet --keep-macs 0.5 --criterion command_nets:mixed --out small", "must make a criterion"),
        (
            "prune lenet --classes 3 --keep-macs 0.5 --criterion taylor --data fashion10 --out small",
            "3 outputs, 10 classes of fashion10",
        ),
        (
            "prune lenet --classes 3 --keep-macs 0.5 --criterion lfe-accuracy --data fashion10 --out small",
            "reads labels",
        ),
        ("prune command_nets:mixed --input 1,5 --keep-macs 0.5 --out small", "sort"),
        ("prune command_nets:raises --keep-macs 0.5 --out small", "no such layer"),
        ("prune nothing_like_it --keep-macs 0.5 --out small", "timm:NAME"),
        ("prune lenet --keep-macs 0.5 --out .", "something else"),
        ("prune lenet --keep-macs 0.5 --fold mean --out small", "--data NAME"),
        ("prune lenet --keep-macs 0.5 --data fashion-target --out small", "which l2 does not"),
        ("prune lenet --keep-macs 0.5 --fold constant --data-dir . --out small", "--data-dir"),
        ("prune lenet --keep-macs 0.5 --fold mean --data nothing_like_it --out small", "nothing_like_it"),
        ("prune lenet --keep-macs 0.5 --fold mean --data mnist --data-dir . --out small", "train-images"),
        ("prune lenet --keep-macs 0.5 --fold mean --data fashion10 --score-images 0 --out small", "at least 1"),
        ("prune resnet20 --keep-macs 0.5 --fold mean --data fashion10 --out small", "(3, 32, 32)"),
        ("prune command_nets:grouped --input 2,5 --keep-macs 0.5 --fold mean --data fashion10 --out small", "batches="),
        ("prune lenet --keep-macs 0.5 --out command_nets.py/small", "written to"),
    ],
)
def test_bad_input_is_one_error_and_nothing_is_written(line: str, said: str, bonsai, untouched) -> None:
    answer = bonsai(line)
    assert answer.code == 2
    assert said in answer.err
    assert "Traceback" not in answer.err
    assert untouched() == []


def test_a_backbone_may_lose_outputs(bonsai) -> None:
    line = "prune lenet --keep-channels 0.5 --scope uniform --dry-run"
    assert json.loads(bonsai(f"{line} --json").out)["outputs"] == []
    told = json.loads(bonsai(f"{line} --json --prune-outputs").out)
    assert len(told["outputs"][0]["1"]) == 5
    assert told["verification"]["outputs"] == "kept channels"
    assert "outputs that lose channels" in bonsai("explain lenet --prune-outputs").out


def test_blocks_are_passed_on(bonsai) -> None:
    explained = "explain command_nets:grouped --input 2,5 --json --blocks"
    for way, size in (("inside", 4), ("whole", 3)):
        assert [g["channels"] for g in json.loads(bonsai(f"{explained} {way}").out)["groups"]] == [size]
    told = json.loads(
        bonsai("prune command_nets:grouped --input 2,5 --keep-channels 0.7 --dry-run --json --blocks whole").out
    )
    assert told["groups"] == [{"name": "0", "channels": 3, "kept": 2}]
    assert told["verification"]["exact"]


def test_where_the_network_will_run(bonsai, monkeypatch, tmp_path) -> None:
    """Milliseconds depend on the machine, so a budget of MACs is spent for a device here; latencies: tests/pruning."""
    monkeypatch.setenv("TORCHBONSAI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("torchbonsai.pruning.meters.SECONDS", 0.02)
    told = json.loads(bonsai("prune lenet --keep-macs 0.5 --on cpu:eager --dry-run --json").out)
    assert told["cost"]["after"]["macs"] <= 0.5 * told["cost"]["before"]["macs"]
    assert told["latency"]["on"] == "cpu:eager"
    assert told["latency"]["dense_ms"] > 0
    said = bonsai("prune lenet --keep-peak-bytes 0.7 --keep-model-bytes 900000 --on cpu:eager --out small")
    assert said.code == 0
    assert "measured in turns on cpu:eager" in said.out
    assert sum(p.numel() * 4 for p in tb.load("small").parameters()) <= 900_000
    assert bonsai("prune lenet --latency 0.5 --dry-run").code == 2  # on what?
    assert bonsai("prune lenet --latency 0.5 --on cpu --dry-run").code == 2


def test_constants_are_folded_where_asked(bonsai) -> None:
    dense = build(ModelConfig("lenet", (1, 28, 28)), seed=0)
    with torch.no_grad():
        dense.conv1.weight[:10] = 0
    torch.save(dense.state_dict(), "dense.pt")
    said = bonsai("prune lenet --weights dense.pt --keep-channels 0.9 --only conv1 --fold constant --out one --dry-run")
    assert said.code == 0
    assert "do not depend on the input" in said.out
    assert bonsai("prune lenet --weights dense.pt --keep-channels 0.5 --only conv1 --fold constant --out one").code == 0
    x = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    small = tb.load("one")
    assert small.conv1.out_channels == 10
    assert torch.allclose(small(x), dense.eval()(x), atol=1e-5)


def test_means_over_a_data_set_are_folded(bonsai) -> None:
    """As `tb.prune` folds them over its training images, so that less of the outputs is lost."""
    dense = build(ModelConfig("lenet", (1, 28, 28), 5), seed=0)
    torch.save(dense.state_dict(), "dense.pt")
    line = "prune lenet --classes 5 --weights dense.pt --keep-channels 0.7 --out"
    assert bonsai(f"{line} masked").code == 0
    said = bonsai(f"{line} folded --fold mean --data fashion-target-28 --score-images 200")
    assert said.code == 0, said.err
    assert 'fold="mean":' in said.out
    splits = tb.data.load(tb.data.DataConfig("fashion-target-28"))
    batches = tb.data.batches(splits.train, splits, limit=200)
    masked, folded = tb.load("masked"), tb.load("folded")
    same = tb.prune(dense.eval(), batches[0][0][:1], budget=tb.Budget(channels=0.7), fold="mean", batches=batches).model
    unseen = tb.data.normalise(splits.val.x[:100], splits)
    assert torch.allclose(folded(unseen), same(unseen), atol=1e-5)
    lost = [(small(unseen) - dense(unseen)).square().mean().item() for small in (folded, masked)]
    assert lost[0] < lost[1] / 2


def test_images_are_scaled_to_the_model_and_say_what_never_changes(bonsai) -> None:
    options = "--keep-channels 0.7 --fold constant --data fashion10 --score-images 50 --dry-run"
    said = bonsai(f"prune lenet {options}")  # 28x28, where the images are 14x14
    assert said.code == 0, said.err
    assert "never changed over the batches" in said.out


def test_a_criterion_may_look_at_images(bonsai) -> None:
    options = "--keep-params 0.3 --dry-run --json --data fashion-target-28 --score-images 64"
    line = f"prune lenet --classes 5 {options} --criterion"
    kept = {name: _kept(bonsai(f"{line} {name}").out) for name in ("taylor", "apoz")}
    splits = tb.data.load(tb.data.DataConfig("fashion-target-28"))
    batches = tb.data.batches(splits.train, splits, limit=64)
    model = build(ModelConfig("lenet", (1, 28, 28), 5), seed=0).eval()
    own = tb.prune(
        model, batches[0][0][:1], budget=tb.Budget(params=0.3), criterion=tb.criteria.Taylor(), batches=batches
    )
    assert kept["taylor"] == {n: int(k.sum()) for n, k in own.selection.items()}
    assert kept["taylor"] != kept["apoz"]


def _kept(said: str) -> dict[str, int]:
    return {g["name"]: g["kept"] for g in json.loads(said)["groups"]}


def test_labels_that_are_not_read_need_not_be_the_models(bonsai) -> None:
    options = "--classes 3 --keep-macs 0.5 --dry-run --data fashion10 --score-images 32"
    for criterion in ("apoz", "lfe-agreement-quick"):
        said = bonsai(f"prune lenet {options} --criterion {criterion}")
        assert said.code == 0, said.err
