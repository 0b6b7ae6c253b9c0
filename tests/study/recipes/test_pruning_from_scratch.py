"""Pruning from scratch: gates on frozen weights, one set for many budgets, controls at equal MACs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import record
from safetensors.torch import load_file
from tiny_recipes import TINY, arms, followed, made_up, of

import torchbonsai as tb
from torchbonsai.study.about import read_study
from torchbonsai.study.recipes import RECIPES
from torchbonsai.study.recipes.chain import Chain
from torchbonsai.study.recipes.diversity import correlations, diversity
from torchbonsai.study.recipes.kit import Kit
from torchbonsai.study.recipes.pruning_from_scratch import PruningFromScratch
from torchbonsai.study.record import Arm, RunRecord
from torchbonsai.study.stages.gates import ordered
from torchbonsai.study.table import counted

SMALL = {
    "model": "bonsai_small",
    "augment": (),
    "limit_train": 64,
    "val_size": 50,
    "start_epochs": 1,
    "epochs": 2,
    "gate_epochs": 2,
    "gate_lr": 0.1,
    "budgets": ("50%", "25%"),
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[RunRecord]]:
    out = tmp_path_factory.mktemp("scratch")
    return out, followed("pruning-from-scratch", out, **SMALL | {"equal_compute": False})


def test_arms_and_controls_at_every_budget(study: tuple[Path, list[RunRecord]]) -> None:
    _, records = study
    small = {
        ("untrained", "gates", ""),
        ("trained", "gates", ""),
        ("untrained", "gates", "shuffled"),
        ("untrained", "", "drawn-widths"),
        ("untrained", "", "uniform-new"),
    }
    dense = {("untrained", "", "dense")}
    assert arms(records, "equal-epochs") == small | dense
    assert arms(records, "scratch-b") == small
    for budget in ("50%", "25%"):
        assert len([r for r in records if r.arm.budget == budget]) == 5 + 5


def test_budgets_are_of_the_unexpanded_network(study: tuple[Path, list[RunRecord]]) -> None:
    _, records = study
    (dense,) = of(records, "dense")
    for r in (r for r in records if r.arm.control != "dense"):
        assert (r.dense_macs, r.dense_params) == (dense.macs, dense.params)
        share = 0.5 if r.arm.budget == "50%" else 0.25
        assert share * 0.85 < r.macs / dense.macs <= share, r.arm
    assert max(of(records, "drawn-widths")[0].widths.values()) > 8


def test_one_set_of_gates_serves_all_budgets_and_weights_are_new(study: tuple[Path, list[RunRecord]]) -> None:
    out, records = study
    assert len(list((out / "stages").glob("learn-gates-*"))) == 2, "on random weights, and on trained ones"
    for r in of(records, "") + of(records, "shuffled"):
        assert r.remade.startswith("factory at widths"), "new weights at the widths that were found"
        assert r.verification["exact"]
    by_budget = {r.arm.budget: r for r in of(records, "", start="untrained")}
    assert all(by_budget["25%"].widths[n] <= w for n, w in by_budget["50%"].widths.items()), "one ranking"


def test_lengths_of_training(study: tuple[Path, list[RunRecord]]) -> None:
    _, records = study
    gates = of(records, "", start="untrained")[0]
    expanded = gates.spent.scoring // (3 * 2 * 64)
    assert 1.2 * gates.dense_macs < expanded < 1.7 * gates.dense_macs, "learning is counted, at the expanded width"
    for r in records:
        if r.arm.fairness == "equal-epochs":
            assert r.epochs == 2.0
        else:
            assert r.epochs == pytest.approx(2.0 * r.dense_macs / r.macs, rel=1e-3)


def test_gates_are_between_zero_and_one(study: tuple[Path, list[RunRecord]]) -> None:
    out, _ = study
    for folder in (out / "stages").glob("learn-gates-*"):
        gates = torch.cat(list(load_file(folder / "tensors.safetensors").values()))
        assert 0 <= gates.min() < gates.max() <= 1
    assert len(read_study(out).about.sentences) == 2 + 2 * 2, "of the gates of both starts; budgets by fairness"


def test_equal_compute_and_searches_from_many_initialisations_and_along_one_run(tmp_path: Path) -> None:
    settings = {"searches": 2, "checkpoints": 2, "start_epochs": 2, "epochs": 1, "budgets": ("50%",)}
    records = followed("pruning-from-scratch", tmp_path, **SMALL | settings | {"scratch_b": False})
    stretched = [r for r in records if r.arm.fairness == "equal-compute"]
    assert len(stretched) == 6
    (total,) = {r.total_macs_allowed for r in stretched}
    assert total == max(r.spent.total for r in records if r.arm.fairness == "equal-epochs" and r.arm.control != "dense")
    assert all(total - 3 * r.macs * 32 < counted(r) <= total for r in stretched)
    found = {r.arm.start: r for r in records if r.arm.fairness == "diversity of widths"}
    assert list(found) == ["init 1", "init 2", "checkpoint 0%", "checkpoint 50%", "checkpoint 100%"]
    (own,) = of(records, "", start="untrained")
    assert found["checkpoint 0%"].widths == own.widths, "the run begins with the network of the other arms"
    assert [found[f"checkpoint {k}%"].spent.start for k in (0, 50, 100)] == [
        k * of(records, "", start="trained")[0].spent.start // 2 for k in range(3)
    ]
    (sentence,) = (s for s in read_study(tmp_path).about.sentences if s.startswith("Widths at"))
    assert "2 random initialisations: correlation" in sentence
    assert "2 trained checkpoints of one run: correlation" in sentence
    begun = found["checkpoint 0%"].test_accuracy
    assert sentence.endswith(f"not among the initialisations, is left out of both (test accuracy {begun:.1%}).")


def test_the_beginning_of_a_run_is_not_among_its_trained_checkpoints() -> None:
    """Trained ones are alike and their beginning is far off: it would make their spread."""

    def found(start: str, seed: int, a: int, b: int) -> RunRecord:
        arm = Arm(start, "gates", "", "50%", "diversity of widths")
        return record(arm, seed, 0.5, widths={"conv1": a, "conv2": b})

    records = [
        found(start, seed, *widths)
        for seed in range(3)
        for start, widths in {
            "init 1": (8, 16),
            "init 2": (8 + seed, 24),
            "checkpoint 0%": (1, 32),
            "checkpoint 50%": (12, 8),
            "checkpoint 100%": (12, 8),
        }.items()
    ]
    (sentence,) = diversity(records)
    assert "2 trained checkpoints of one run: correlation 1.00 (1.00 to 1.00), spread 0.000 of a layer" in sentence
    assert "Random minus trained: accuracy" in sentence
    assert "spread +0.110 [+0.056, +0.165]" in sentence


def test_searches_are_at_every_budget() -> None:
    settings = PruningFromScratch(**TINY | SMALL | {"searches": 2, "checkpoints": 2, "start_epochs": 2})
    recipe = RECIPES["pruning-from-scratch"](settings)
    chains = recipe.chains(Kit(settings, recipe.look(settings)[0]), {})
    arms = [c.arm for c in chains if isinstance(c, Chain) and c.arm.fairness == "diversity of widths"]
    names = ["init 1", "init 2", "checkpoint 0%", "checkpoint 50%", "checkpoint 100%"]
    assert [(a.budget, a.start) for a in arms] == [(b, name) for b in ("50%", "25%") for name in names]


def test_orders_of_gates() -> None:
    graph = tb.trace(torch.nn.Sequential(*(torch.nn.Linear(40, 40) for _ in range(4))), torch.zeros(1, 40))
    gates = {g.name: torch.linspace(k, k + 1, g.size) for k, g in enumerate(graph.groups)}
    assert ordered(graph, gates, "rank", 0) is gates
    shuffled = ordered(graph, gates, "shuffled", 0)
    assert torch.equal(torch.cat(list(shuffled.values())).sort().values, torch.cat(list(gates.values())).sort().values)
    assert not torch.equal(shuffled[graph.groups[0].name], gates[graph.groups[0].name])
    drawn = ordered(graph, {}, "drawn", 1)
    kept = torch.tensor([int((s >= 0.5).sum()) for s in drawn.values()])
    wider = torch.tensor([int((s >= 0.25).sum()) for s in drawn.values()])
    assert len(kept.unique()) > 1, "layers have widths of their own"
    assert torch.allclose(wider / kept, torch.tensor(1.5), atol=0.2), "in proportion"


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(tb.ConfigError, match="expand"):
        PruningFromScratch(expand=0.5)
    with pytest.raises(tb.ConfigError, match="budget"):
        PruningFromScratch(budgets=("200%",))
    with pytest.raises(tb.ConfigError, match="budget"):
        PruningFromScratch(budget=("200%",))
    for budgets in ("50%", "25%"):
        with pytest.raises(tb.ConfigError, match="budgets and budget say one thing"):
            PruningFromScratch(budgets=(budgets,), budget=("25%",))


def test_budget_is_another_name_of_budgets() -> None:
    usual = PruningFromScratch()
    assert usual.budgets == ("50%",)
    assert PruningFromScratch(budget=("50%",)) == usual == replace(usual, lr=usual.lr)
    several = PruningFromScratch(budget=("50%,25%",))
    assert several == PruningFromScratch(budgets=("50%", "25%"))
    assert several.identity == PruningFromScratch(budgets=("50%", "25%")).identity
    assert replace(several, lr=0.2).budgets == ("50%", "25%")


def test_two_checkpoints_are_never_the_same_weights() -> None:
    with pytest.raises(tb.ConfigError, match=r"epochs \[0, 1, 2, 2, 3\]"):
        PruningFromScratch(searches=2, checkpoints=4, start_epochs=3)
    with pytest.raises(tb.ConfigError, match="checkpoints must be at least 2"):
        PruningFromScratch(searches=2, checkpoints=1)
    with pytest.raises(tb.ConfigError, match="checkpoints are of searches"):
        PruningFromScratch(checkpoints=5)
    PruningFromScratch(searches=2, checkpoints=3, start_epochs=3)


def test_layers_at_the_floor_are_told_once_whatever_the_training() -> None:
    controls = (("trained", ""), ("untrained", "shuffled"), ("untrained", "drawn-widths"), ("untrained", "uniform-new"))

    def block(budget: str, fairness: str, at_floor: int) -> list[RunRecord]:
        """The trained start's layer is at the floor in so many seeds of three."""
        return [
            replace(made, arm=Arm(start, "gates", control, budget, fairness))
            for seed in range(3)
            for start, control in (("untrained", ""), *controls)
            for made in [made_up(start, seed, [(2 if start == "trained" and seed < at_floor else 5, 0.5)])]
        ]

    recipe = RECIPES["pruning-from-scratch"](PruningFromScratch())

    def told(records: list[RunRecord]) -> list[str]:
        return [s for s in recipe.sentences(records) if "floor" in s]

    one = "under equal-epochs, trained start, at the floor after the first cut: conv has 2 of 10 channels in"
    records = [*block("50%", "equal-epochs", 2), *block("50%", "scratch-b", 2)]
    assert told(records) == [f"gates {one} 2 of 3 seeds."]
    more = [*records, *block("25%", "equal-epochs", 3)]
    assert told(more) == [f"gates at 50% {one} 2 of 3 seeds.", f"gates at 25% {one} 3 of 3 seeds."]


def test_a_search_without_variation_is_in_no_correlation() -> None:
    kept = np.array([[0.1, 0.2], [0.2, 0.4], [0.3, 0.3]])
    assert correlations(kept) == pytest.approx([1.0]), "the third has none"
    assert correlations(kept[:1], kept[1:]) == pytest.approx([1.0])
    assert correlations(kept[1:]) == correlations(kept, kept[2:]) == []


def test_only_what_is_named_has_gates_and_is_cut(tmp_path: Path) -> None:
    """The inner channels of the blocks, as in the paper's code."""
    settings = {
        "model": "resnet20",
        "width": 0.25,
        "only": ("layer*.conv1",),
        "budgets": ("80%",),
        "gate_epochs": 1,
        "epochs": 0.5,
    }
    more = {"scratch_b": False, "equal_compute": False, "start_epochs": 0.5}
    records = followed("pruning-from-scratch", tmp_path, **SMALL | settings | more)
    for r in of(records, "") + of(records, "shuffled") + of(records, "drawn-widths"):
        cut = {name for name, width in r.widths.items() if width < r.dense_widths[name]}
        assert cut
        assert all(name.startswith("layer") and name.endswith("conv1") for name in cut)
    (own,) = of(records, "", start="untrained")
    (learned,) = own.scored
    inner = [w for name, w in own.dense_widths.items() if name.endswith("conv1") and name.startswith("layer")]
    assert learned["gates"] == sum(int(1.25 * w + 0.5) for w in inner), "the widths are of the expanded network"
    assert any(s.startswith("Gates on untrained weights, after") for s in read_study(tmp_path).about.sentences)


def test_a_name_of_no_module_is_an_error_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(tb.ConfigError, match="only"):
        followed("pruning-from-scratch", tmp_path / "out", **SMALL | {"only": ("nothing*",)})
    assert not (tmp_path / "out").exists()
