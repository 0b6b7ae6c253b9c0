"""The memory of a study on disk: one folder a stage, done when its `record.json` is there.

    stages/<kind>-<key>/record.json          one atomic file; written last
    stages/<kind>-<key>/tensors.safetensors  written atomically before it, if the stage has tensors
    stages/<kind>-<key>/lock                 held by the process that runs the stage, freed by the system when it dies

`key` hashes the config, the version of the handler, the versions of torchbonsai and torch, and the *digests of the
parents' outputs*: a parent that is run again with another config but ends with the same output changes nothing below.
Every read checks the digests, so a damaged file is found and never used.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from filelock import BaseFileLock, FileLock
from torch import Tensor

from torchbonsai.artifacts.folder import writing
from torchbonsai.core.config import canonical_json, config_hash, plain, write_atomic
from torchbonsai.core.errors import ArtifactError, message
from torchbonsai.study.stage import Kind, Output

RECORD, TENSORS = "record.json", "tensors.safetensors"
FORMAT = 1


class DamagedStage(ArtifactError):
    """A stage's folder holds a record or tensors that are not what was written."""


@dataclass(frozen=True, eq=False)
class Done:
    """A finished stage: its checked record; the tensors are read, and checked, when asked for."""

    key: str
    record: Mapping[str, Any]
    folder: Path

    @property
    def result(self) -> dict[str, Any]:
        """What the handler returned as `result`."""
        return self.record["result"]

    @property
    def timing(self) -> dict[str, Any]:
        """What the handler returned as `timing`, and `seconds`."""
        return self.record["timing"]

    @property
    def digest(self) -> str:
        """A hash of result and tensors."""
        return self.record["digest"]

    def tensors(self) -> dict[str, Tensor]:
        """Name -> tensor, on the CPU. Raises DamagedStage where the file is not the one that was written."""
        if self.record["tensors"] is None:
            return {}
        raw = _read_tensors(self.folder, self.record["tensors"])
        return safetensors.torch.load(raw)


def versions() -> dict[str, str]:
    """What code made a result: part of every stage's identity."""
    return {"torchbonsai": importlib.metadata.version("torchbonsai"), "torch": torch.__version__}


def environment() -> dict[str, str]:
    """Where a stage ran: recorded, and no part of any identity."""
    return {"host": platform.node(), "platform": platform.platform(), "python": platform.python_version()}


def key_of(kind: Kind, config: Any, parents: Mapping[str, str]) -> str:
    """The name of a stage's folder. parents: role -> digest of that parent's output."""
    identity = {"kind": kind.name, "version": kind.version, "config": config, "parents": dict(parents)}
    return f"{kind.name}-{config_hash(identity | {'code': versions()})}"


def check_writable(out: Path) -> None:
    """Make a study's folders, and files in them that are gone again. Raises ArtifactError where that is refused."""
    for folder in (out, out / "stages", out / "records"):
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass


class Store:
    """A folder of stages. Several processes may share it."""

    def __init__(self, folder: Path | str) -> None:
        """`folder` is made when the first stage is written."""
        self.folder = Path(folder)

    def path(self, key: str) -> Path:
        """The folder of one stage."""
        return self.folder / key

    def lock(self, key: str) -> BaseFileLock:
        """The lock to hold while running the stage; it dies with its process."""
        self.path(key).mkdir(parents=True, exist_ok=True)
        return FileLock(self.path(key) / "lock")

    def load(self, key: str) -> Done | None:
        """The finished stage, None where it is not done; DamagedStage where its files are not what was written."""
        path = self.path(key) / RECORD
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise _damaged(path, str(error)) from error
        done = Done(key, _parse(path, text), path.parent)
        if done.record["tensors"] is not None:
            _read_tensors(done.folder, done.record["tensors"])
        return done

    def save(self, key: str, output: Output, about: Mapping[str, Any]) -> Done:
        """Write tensors, then the record, each all or nothing. about: kind, config, parents, timing to be recorded."""
        folder = self.path(key)
        digest_of_tensors = _write_tensors(folder, output.tensors)
        record: dict[str, Any] = {
            "format": FORMAT,
            **plain(dict(about)),
            "result": plain(output.result),
            "tensors": digest_of_tensors,
            "digest": _digest(output.result, digest_of_tensors),
            "environment": environment(),
        }
        record["check"] = config_hash(record, 32)
        write_atomic(folder / RECORD, json.dumps(record, indent=1, allow_nan=False))
        return Done(key, record, folder)

    def discard(self, key: str) -> None:
        """Forget a stage's files (the lock stays, its holder may be the caller)."""
        for path in self.path(key).iterdir() if self.path(key).is_dir() else ():
            if path.name != "lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _digest(result: Mapping[str, Any], tensors: str | None) -> str:
    return hashlib.sha256(canonical_json([result, tensors]).encode()).hexdigest()[:32]


def _write_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> str | None:
    if not tensors:
        return None
    raw = safetensors.torch.save({name: _storable(t) for name, t in sorted(tensors.items())})
    write_atomic(folder / TENSORS, raw)
    return hashlib.sha256(raw).hexdigest()


def _storable(tensor: Tensor) -> Tensor:
    """A copy of its own memory: safetensors refuses tensors that share storage, and tied weights do."""
    return tensor.detach().cpu().contiguous(memory_format=torch.contiguous_format).clone()


def _read_tensors(folder: Path, expected: str) -> bytes:
    path = folder / TENSORS
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise _damaged(path, str(error)) from error
    if hashlib.sha256(raw).hexdigest() != expected:
        raise _damaged(path, "other bytes than were written")
    return raw


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
        check = record.pop("check")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    if config_hash(record, 32) != check:
        raise _damaged(path, "its content does not fit its own checksum")
    record["check"] = check
    return record


def _damaged(path: Path, what: str) -> DamagedStage:
    return DamagedStage(
        message(
            "a stage's files must be what the stage wrote",
            f"{path}: {what}",
            "a full disk, a copy that was cut short, or an edit by hand",
            "delete the folder: the stage runs again",
        )
    )
