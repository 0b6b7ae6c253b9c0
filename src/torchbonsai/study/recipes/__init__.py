"""Papers' procedures, a file each: lists of stages with their control arms, run by the one runner.

from torchbonsai.study.recipes import RECIPES, follow
settings = RECIPES["network-trimming"].config(model="lenet", data="mnist", data_dir="…")
records = follow(RECIPES["network-trimming"](settings), settings)
"""

from __future__ import annotations

from typing import Any

from torchbonsai.study.recipes import (
    bonsai_hypothesis,
    linear_filter_ensembles,
    network_trimming,
    pretraining_impact,
    pruning_from_scratch,
)
from torchbonsai.study.recipes.base import follow

_MODULES = (bonsai_hypothesis, pretraining_impact, linear_filter_ensembles, pruning_from_scratch, network_trimming)
RECIPES: dict[str, Any] = {module.Recipe.name: module.Recipe for module in _MODULES}
"""Name -> recipe: called with its settings, an instance of its `config`."""

__all__ = ["RECIPES", "follow"]
