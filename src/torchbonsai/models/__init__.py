"""A zoo of networks for small images, with widths as parameters, and building any model by name."""

from torchbonsai.models.build import ModelConfig, build, names, takes_width

__all__ = ["ModelConfig", "build", "names", "takes_width"]
