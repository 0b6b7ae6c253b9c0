"""Settings from files: those that ship are the official code's where they say so, and what is no setting is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchbonsai.core.config import config_hash, plain
from torchbonsai.core.errors import ConfigError
from torchbonsai.study.recipes import RECIPES
from torchbonsai.study.recipes.from_file import names, read
from torchbonsai.study.recipes.pruning_from_scratch import PruningFromScratch
from torchbonsai.training import TrainConfig

# Read in the official code of arXiv 1909.12579, for ImageNet. Of the 150 epochs there is no step left out.
GATES = {"gate_lr": 0.01, "gate_epochs": 1, "gate_batch": 100, "strength": 0.05, "sparsity": 0.5}
TRAINING = {"epochs": 150.0, "lr": 0.05, "batch_size": 256, "weight_decay": 4e-5, "decay_depthwise": False}


@pytest.mark.parametrize(
    ("name", "schedule", "model"),
    [
        ("pfs-imagenet-resnet50", {"schedule": "step", "milestones": (0.3, 0.6, 0.9)}, "torchvision:resnet50"),
        ("pfs-imagenet-mobilenet-v1", {"schedule": "cosine"}, "timm:mobilenetv1_100"),
        ("pfs-imagenet-mobilenet-v2", {"schedule": "cosine"}, "torchvision:mobilenet_v2"),
    ],
)
def test_the_imagenet_settings_of_pruning_from_scratch(name: str, schedule: dict, model: str) -> None:
    settings = PruningFromScratch(**read(name, "pruning-from-scratch", data_dir="DIR"))
    expected = GATES | TRAINING | schedule | {"model": model, "label_smoothing": 0.1}
    expected |= {"data": "folder", "data_dir": "DIR", "image_size": 224, "augment": ("resized-crop", "flip")}
    assert {key: getattr(settings, key) for key in expected} == expected
    training = settings.training(settings.epochs, 0)
    assert training.nesterov
    assert training.milestones == settings.milestones
    assert not training.decay_depthwise


def test_what_ships_can_be_read_and_says_that_it_was_not_run() -> None:
    folder = Path(__file__).parents[3] / "src/torchbonsai/study/recipes/configs"
    assert {f.stem for f in folder.iterdir()} == set(names()) != set()
    for file in folder.iterdir():
        text = file.read_text(encoding="utf-8")
        assert "NOT RUN HERE" in text
        settings = read(file.stem)
        assert f"--config {file.stem}" in text
        (recipe,) = (r for n, r in RECIPES.items() if f'recipe = "{n}"' in text)
        recipe.config(**settings)
        lines = [line for line in text.splitlines() if line.partition(" = ")[0] in settings and "#" not in line]
        assert {line.partition(" = ")[0] for line in lines} <= {"data", "model", "device", "precision", "channels_last"}


def test_settings_of_one_s_own_and_what_wins(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('rounds = 3\nlr = 0.5\naugment = ["flip"]\n', encoding="utf-8")
    path.with_name("types.toml").write_text(
        'lr = 1\nseeds = [0, 4]\naugment = "flip"\nval_size = 50\n', encoding="utf-8"
    )
    assert read(path.with_name("types.toml"), "network-trimming")["seeds"] == (0, 4)
    assert read(path, "network-trimming", lr=0.1) == {"rounds": 3, "lr": 0.1, "augment": ("flip",)}


def test_one_value_stands_for_a_list_and_a_number_of_seeds_for_the_first_ones(tmp_path: Path) -> None:
    text = 'recipe = "network-trimming"\nseeds = 3\nmilestones = 0.5\nschedule = "step"\nonly = "conv2"\n'
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    found = RECIPES["network-trimming"].config(**read(path))
    assert (found.seeds, found.milestones, found.only) == ((0, 1, 2), (0.5,), ("conv2",))


@pytest.mark.parametrize("name", RECIPES)
def test_in_python_too(name: str) -> None:
    config = RECIPES[name].config
    assert config(seeds=5) == config(seeds=[0, 1, 2, 3, 4]) == config(seeds=(0, 1, 2, 3, 4))
    assert config(seeds=5).identity == config(seeds=(0, 1, 2, 3, 4)).identity
    assert config(seeds=[5]).seeds == (5,), "which, not how many"
    assert config(schedule="step", milestones=0.3).milestones == (0.3,)
    assert config(schedule="step", milestones="0.3,0.6").milestones == (0.3, 0.6)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"seeds": "5"}, "seeds must be a number of them"),
        ({"seeds": 2.0}, "seeds must be a number of them"),
        ({"seeds": True}, "seeds must be a number of them"),
        ({"seeds": [0, "1"]}, "seeds must be a number of them"),
        ({"seeds": 0}, "seeds must name at least one"),
        ({"seeds": (1, 1)}, "seeds must name at least one"),
        ({"milestones": "half"}, "milestones must be a number"),
        ({"milestones": None}, "milestones must be a number"),
        ({"lr": "fast"}, "lr must be a number"),
        ({"start_epochs": (1, 2)}, "start_epochs must be a number"),
    ],
)
@pytest.mark.parametrize("name", RECIPES)
def test_what_is_neither_is_one_error(name: str, setting: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        RECIPES[name].config(**setting)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gate_rate = 0.1", "gate_rate.*"),
        ('recipe = "network-trimming"', "must be for pruning-from-scratch"),
        ('recipe = "x"', "must be for pruning-from-scratch"),
        ('recipe = ["pruning-from-scratch"]', "must be for pruning-from-scratch"),
        ("seeds = [0, 1.5]", "seeds must be tuple"),
        ("seeds = '3'", "seeds must be tuple"),
        ("[lr]\nx = 1", "lr must be float"),
        ("lr = true", "lr must be float"),
        ("lr = [0.1, 0.2]", "lr must be float"),
        ("epochs = '8'", "epochs must be float"),
        ("round_to = 2.0", "round_to must be int"),
        ("compile = 1", "compile must be bool"),
        ("data = 5", "data must be str"),
        ("augment = [1]", "augment must be tuple"),
        ("val_size = 'None'", "val_size must be int"),
        ("schedule = 'steps'", "schedule must be Literal"),
        ("lr = ", "a config is a TOML file, or one of pfs-imagenet-"),
    ],
)
def test_what_is_no_setting_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=says) as error:
        read(path, "pruning-from-scratch")
    if "gate_rate" in text:
        assert "gate_lr" in str(error.value), "the known ones are told"
    with pytest.raises(ConfigError, match="pfs-imagenet-resnet50"):
        read("pfs-imagenet-resnet5", "pruning-from-scratch")


def test_one_way_of_saying_it_wins_over_the_file_s_other(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('rounds = 3\nbudget = "4x"\n', encoding="utf-8")
    assert read(path, "pretraining-impact") == {"rounds": 3, "budget": "4x"}
    assert read(path, "pretraining-impact", share=0.2) == {"rounds": 3, "share": 0.2}
    assert read("pfs-imagenet-resnet50", budget=("25%",))["budget"] == ("25%",)
    assert PruningFromScratch(**read("pfs-imagenet-resnet50", budget="25%")).budgets == ("25%",)
    path.write_text('budget = "25%"\n', encoding="utf-8")
    assert PruningFromScratch(**read(path, "pruning-from-scratch")).budgets == ("25%",)
    path.write_text('budget = "25%"\nbudgets = "50%"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="budgets and budget say one thing"):
        PruningFromScratch(**read(path, "pruning-from-scratch"))


def test_fields_that_came_later_leave_old_identities_alone() -> None:
    later = {"milestones", "decay_depthwise", "gate_batch", "budget"}
    before = {k: v for k, v in plain(PruningFromScratch()).items() if k != "type"}
    assert not later & set(before)
    places = ("out", "data_dir", "workers")
    assert PruningFromScratch().identity == config_hash({k: v for k, v in before.items() if k not in places})
    assert PruningFromScratch(gate_batch=50).identity != PruningFromScratch().identity
    assert PruningFromScratch(milestones=(0.5, 0.75)).identity == PruningFromScratch().identity
    assert "decay_depthwise" not in plain(TrainConfig(1))
    assert plain(TrainConfig(1, decay_depthwise=False))["decay_depthwise"] is False
