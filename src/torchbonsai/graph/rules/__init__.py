"""One file a kind of op. An op without a rule freezes what it touches: nothing is assumed of the unknown."""


def load() -> None:
    """Import every rule file, which registers its rules."""
    from torchbonsai.graph.rules import (  # noqa: F401
        attention,
        contraction,
        creation,
        layout,
        normalising,
        per_channel,
        pointwise,
        recurrent,
        reduction,
        spatial,
    )
