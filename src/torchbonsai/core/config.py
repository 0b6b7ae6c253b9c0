"""Canonical JSON of plain data, its hash, writing files all or nothing, and where they are kept between runs."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

T = TypeVar("T")
_LATER = "torchbonsai: added later"


def added_later(default: T) -> T:
    """A dataclass field that its class did not always have: at its default it is left out of the canonical form.

    So what was computed before the field was there keeps its identity, and a study begun then goes on.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Old:
    ...     a: int = 1
    ...     b: int = added_later(2)
    >>> plain(Old()), plain(Old(b=3))
    ({'type': 'Old', 'a': 1}, {'type': 'Old', 'a': 1, 'b': 3})
    """
    made: T = dataclasses.field(default=default, metadata={_LATER: True})
    return made


def said(value: Any) -> dict[str, Any]:
    """A dataclass's fields by name, without those that were added later and are at their default."""
    fields = {f.name: (getattr(value, f.name), f) for f in dataclasses.fields(value)}
    return {name: v for name, (v, f) in fields.items() if not (f.metadata.get(_LATER) and v == f.default)}


def plain(value: Any) -> Any:
    """`value` as JSON data; a dataclass becomes a dict that names its type, so that two types never hash alike.

    Raises TypeError for anything that has no canonical form (a tensor, a function, an open file).
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__, **{name: plain(v) for name, v in said(value).items()}}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(v) for v in value)
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} has no canonical JSON form: {value!r}")


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, NaN refused."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def config_hash(value: Any, length: int = 16) -> str:
    """The first `length` hex digits of the SHA-256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part, whatever is killed when."""
    with atomically(path) as stream:
        stream.write(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def atomically(path: Path) -> Iterator[IO[bytes]]:
    """A stream whose bytes become the file at `path` when it ends well, and are deleted when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def cache_folder() -> Path:
    """Where what was measured or decoded once is kept: TORCHBONSAI_CACHE, or `torchbonsai` in the user's cache."""
    own = os.environ.get("TORCHBONSAI_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torchbonsai"
