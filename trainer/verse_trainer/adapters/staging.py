"""New folders that appear under their name when all of them is written and checked, or not at all.

    .NAME.0f3a9c51.partial    written into, locked by the process that writes
    NAME                      the same folder, renamed when all is well

A killed process leaves its folder behind, which may be gigabytes, and the lock dies with it. So
whoever writes into the same place next removes those that nobody locks.
"""

import os
import re
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import lock_descriptor

from verse.atomic_file import sync_folder
from verse_trainer.errors import ConversionError

_STAGE = re.compile(r"\..+\.[0-9a-f]{8}\.partial")


@contextmanager
def staged(target: Path) -> Generator[Path]:
    """A new folder beside the target to write into, moved into place when the block ends well.

    Raises:
        ConversionError: there is something at the target already, or it cannot be written.
    """
    refuse_existing(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(target.parent)
        with _locked_stage(target) as stage:
            yield stage
            _move(stage, target)
    except (OSError, RuntimeError) as error:  # mlx reports a full disk as a RuntimeError
        raise ConversionError(f"{target} could not be written: {error}") from error


def refuse_existing(target: Path) -> None:
    """Nothing that is there is ever written over.

    Raises:
        ConversionError: there is something at the target.
    """
    if target.exists() or target.is_symlink():
        raise ConversionError(f"{target} already exists; choose another path or remove it first.")


def remove_abandoned(parent: Path) -> None:
    """Remove what killed processes have left half-written in a folder."""
    for path in parent.iterdir():
        if not _STAGE.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
            continue
        handle = _lock(path, waits=False)
        if handle is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(handle)


@contextmanager
def _locked_stage(target: Path) -> Generator[Path]:
    stage, handle = _new_stage(target)
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def _new_stage(target: Path) -> tuple[Path, int | None]:
    # The dot keeps a server that watches this folder from taking it for an adapter.
    stage = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    while True:
        stage.mkdir()
        handle = _lock(stage, waits=True)
        if stage.exists():
            return stage, handle
        # Another process took it for abandoned before it was locked, and has removed it by now.
        if handle is not None:
            os.close(handle)


def _lock(folder: Path, *, waits: bool) -> int | None:
    """A descriptor that locks the folder until it is closed; None where that cannot be had."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        if lock_descriptor(handle, blocking=waits):
            return handle
    except OSError:  # a file system without locks: nothing is taken for abandoned there
        pass
    os.close(handle)
    return None


def _move(stage: Path, target: Path) -> None:
    for file in stage.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    refuse_existing(target)
    stage.rename(target)
    sync_folder(target.parent)
