"""Papers' procedures, a file each: lists of stages with their control arms, run by the one runner.

from torchbonsai.study.recipes import RECIPES, follow
settings = RECIPES["network-trimming"].config(model="lenet", data="mnist", data_dir="…")
records = follow(RECIPES["network-trimming"](settings), settings)
"""

from __future__ import annotations

from typing import Any

from torchbonsai.study.recipes.base import follow
from torchbonsai.study.recipes.network_trimming import Recipe as NetworkTrimming

RECIPES: dict[str, Any] = {recipe.name: recipe for recipe in (NetworkTrimming,)}
"""Name -> recipe: called with its settings, an instance of its `config`."""

__all__ = ["RECIPES", "follow"]
