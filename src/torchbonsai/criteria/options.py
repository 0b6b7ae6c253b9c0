"""Options of criteria, checked."""

from __future__ import annotations

from torchbonsai.core.errors import ConfigError, message


def one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    """Raises ConfigError unless `value` is one of `known`."""
    if value not in known:
        raise ConfigError(message(f"{name} must be one of {', '.join(known)}", repr(value), "a typing error", known[0]))
