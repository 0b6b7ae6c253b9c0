"""The files of an artifact: names, checksums, and a folder that is there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torchbonsai.core.config import canonical_json
from torchbonsai.core.errors import ArtifactError, message

WEIGHTS, PLAN, MANIFEST = "model.safetensors", "plan.json", "artifact.json"
FORMAT = 1


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its place at the end; on an error nothing is left.

    An artifact that is there is replaced. Raises ArtifactError where something else is in the way.
    """
    if folder.exists() and not (folder / MANIFEST).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArtifactError(
            message(
                "a network is saved to a new folder, or over an older artifact",
                f"{str(folder)!r}, which holds something else",
                "a typing error in the path",
                "choose another folder",
            )
        )
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        _replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """The operating system's refusal to write at `path` becomes an ArtifactError."""
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            message(
                f"{str(path)!r} must be a place that can be written to",
                f"{type(error).__name__}: {error.strerror or error}",
                "a folder of somebody else's, a file where a folder is needed, or a full disk",
                "choose another folder",
            )
        ) from error


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Checksums of the files that lie in `folder`, then `content`, then a checksum of it all."""
    files = {p.name: _sha256(p) for p in sorted(folder.iterdir()) if p.name != MANIFEST}
    manifest = {"format": FORMAT, "files": files, **content}
    text = json.dumps(manifest | {"checksum": _checksum(manifest)}, indent=1, allow_nan=False)
    (folder / MANIFEST).write_text(text + "\n")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, after every checksum was compared. Raises ArtifactError for what is missing or altered."""
    if not (folder / MANIFEST).is_file():
        raise _damaged(folder, f"no {MANIFEST}", "a wrong path, or an interrupted copy")
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        checksum = manifest.pop("checksum")
    except (ValueError, KeyError, AttributeError) as error:
        raise _damaged(folder, f"{MANIFEST} cannot be read ({error})", "a truncated or altered file") from error
    if checksum != _checksum(manifest):
        raise _damaged(folder, f"{MANIFEST} was altered", "an edit by hand, or a damaged copy")
    if manifest["format"] != FORMAT:
        raise _damaged(folder, f"format {manifest['format']}, and this version reads {FORMAT}", "another version")
    for name, expected in manifest["files"].items():
        if not (folder / name).is_file():
            raise _damaged(folder, f"{name} is missing", "an interrupted copy")
        if _sha256(folder / name) != expected:
            raise _damaged(folder, f"{name} is truncated or altered", "an interrupted or damaged copy")
    return manifest


def _replace(temporary: Path, folder: Path) -> None:
    """Rename; what was there moves aside first, and comes back if the rename fails."""
    if not folder.exists():
        os.replace(temporary, folder)
        return
    aside = temporary.with_name(temporary.name + ".old")
    os.replace(folder, aside)
    try:
        os.replace(temporary, folder)
    except BaseException:
        os.replace(aside, folder)
        raise
    shutil.rmtree(aside)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _checksum(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(manifest).encode()).hexdigest()


def _damaged(folder: Path, got: str, cause: str) -> ArtifactError:
    must = f"{str(folder)!r} must be a folder that tb.save wrote, whole and unchanged"
    return ArtifactError(message(must, got, cause, "copy it again, or save the network again"))
