"""Options of criteria, checked."""

from __future__ import annotations

from numbers import Integral

from torchbonsai.core.errors import ConfigError, message


def one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    """Raises ConfigError unless `value` is one of `known`."""
    if value not in known:
        raise ConfigError(message(f"{name} must be one of {', '.join(known)}", repr(value), "a typing error", known[0]))


def whole(name: str, value: object, least: int) -> None:
    """Raises ConfigError unless `value` is an int of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        must = f"{name} must be a whole number of at least {least}"
        raise ConfigError(message(must, repr(value), "a typing error", f"{name}={max(least, 1)}"))
