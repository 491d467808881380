"""Checkpoints that are whole or refused: a manifest of every file, written last and verified first."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

MANIFEST = "MANIFEST.json"


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, cut off or damaged; the message names the file and the remedy."""


def seal(folder: Path) -> None:
    """Write the manifest: size and SHA-256 of every file below `folder`."""
    files = {
        str(path.relative_to(folder)): [path.stat().st_size, _digest(path)]
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    partial = folder / f"{MANIFEST}.{uuid.uuid4().hex}"
    partial.write_text(json.dumps(files, indent=1))
    os.replace(partial, folder / MANIFEST)


def verify(folder: str | Path) -> Path:
    """Check that `folder` is a whole checkpoint and return it.

    Raises:
        CheckpointError: naming what is missing, cut off or damaged.
    """
    folder = Path(folder)
    remedy = "Restore from an earlier checkpoint of the run."
    if not folder.is_dir():
        raise CheckpointError(f"checkpoint: {folder} is not a folder. Give the folder that training wrote.")
    if not (folder / MANIFEST).is_file():
        raise CheckpointError(f"checkpoint: {folder} has no {MANIFEST}, so it was never finished. {remedy}")
    try:
        files = json.loads((folder / MANIFEST).read_text())
    except json.JSONDecodeError as error:
        raise CheckpointError(f"checkpoint: {folder / MANIFEST} is cut off ({error}). {remedy}") from error
    for name, (size, digest) in files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"checkpoint: {path} is missing. {remedy}")
        if path.stat().st_size != size:
            raise CheckpointError(
                f"checkpoint: {path} has {path.stat().st_size} bytes instead of {size}. {remedy}"
            )
        if _digest(path) != digest:
            raise CheckpointError(f"checkpoint: the contents of {path} are damaged. {remedy}")
    return folder


def write_atomically(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a new folder beside `folder`, then rename: a kill leaves the old one or the new one.

    Raises:
        CheckpointError: if the disk is full or not writable; nothing at `folder` was changed then.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        write(partial)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"checkpoint: cannot write {folder} ({error}). Free space or choose another run folder; "
            "the last complete checkpoint is untouched."
        ) from error


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return (
            hashlib.file_digest(stream, "sha256").hexdigest()
            if hasattr(hashlib, "file_digest")
            else _slow(path)
        )


def _slow(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()  # Python 3.10 has no file_digest
