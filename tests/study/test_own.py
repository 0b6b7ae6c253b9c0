"""A user's own model and criterion in a comparison."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import torchbonsai as tb
from torchbonsai.core.errors import ConfigError
from torchbonsai.study.stages.start import reset_parameters

SETTINGS = {"seeds": 1, "epochs": 1, "limit_train": 100, "starts": "untrained", "workers": 0}


def test_own_model_and_criterion(tmp_path: Path) -> None:
    own = {"model": "factories:plain", "methods": "factories:First"}
    records = tb.study.compare(**own, budgets="0.5", fairness="equal-epochs", out=tmp_path, **SETTINGS)
    method, chance, uniform, dense = records
    assert method.arm.method == "factories:First"
    assert method.widths == chance.widths
    assert uniform.remade == "reset_parameters() of every module"
    assert uniform.macs <= 0.5 * dense.macs
    model = tb.load(tmp_path / "best" / "0.5")
    assert model(torch.zeros(1, 1, 14, 14)).shape == (1, 5)


def test_a_parameter_that_nobody_can_make_anew_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Scaled"):
        tb.study.compare(model="factories:scaled", methods="l1", out=tmp_path, **SETTINGS)
    assert not list(tmp_path.glob("stages/train-*/record.json"))  # it is said before anything is trained


def test_reset_draws_from_the_seed_alone() -> None:
    from factories import Plain

    nets = [Plain(1, 5) for _ in range(3)]
    state = torch.get_rng_state()
    for net, seed in zip(nets, (1, 1, 2), strict=True):
        reset_parameters(net, seed)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(nets[0].a.weight, nets[1].a.weight)
    assert not torch.equal(nets[0].a.weight, nets[2].a.weight)


def test_other_code_is_another_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchbonsai.study.methods import code_digest

    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "changing.py"
    module.write_text("A = 1\n")
    before = code_digest("changing:A")
    module.write_text("A = 2\n")
    assert code_digest("changing:A") != before
