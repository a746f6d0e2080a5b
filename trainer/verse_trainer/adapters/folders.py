"""Folders of adapters appear whole and leave without being lost.

What is written appears under its name when all of it is there and checked, or not at all. What is
removed is moved into `.trash` beside the adapters.
"""

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from verse.adapter_folder import AdapterFolder
from verse.atomic_file import sync_folder
from verse.model_spelling import AdapterPart
from verse_trainer.adapters.lookup import choose, folder_path
from verse_trainer.errors import AdapterError, ConversionError


@contextmanager
def staged(target: Path) -> Generator[Path]:
    """A new folder beside the target to write into, moved into place when the block ends well.

    Raises:
        ConversionError: there is something at the target already, or it cannot be written.
    """
    refuse_existing(target)
    # The dot keeps a server that watches this folder from taking it for an adapter.
    stage = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        stage.mkdir()
        yield stage
        _move(stage, target)
    except (OSError, RuntimeError) as error:  # mlx reports a full disk as a RuntimeError
        raise ConversionError(f"{target} could not be written: {error}") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def refuse_existing(target: Path) -> None:
    """Nothing that is there is ever written over.

    Raises:
        ConversionError: there is something at the target.
    """
    if target.exists() or target.is_symlink():
        raise ConversionError(f"{target} already exists; choose another path or remove it first.")


def _move(stage: Path, target: Path) -> None:
    for file in stage.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    refuse_existing(target)
    stage.rename(target)
    sync_folder(target.parent)


TRASH = ".trash"
"""A dot in front: no name of an adapter, so nothing serves or lists it."""


def removable(root: Path, part: AdapterPart) -> Path:
    """The folder, or the file of one checkpoint, that a spelling means. A broken folder counts.

    Raises:
        AdapterError: there is nothing of the kind, or it is the last weights there are.
    """
    if part.strength != 1:
        raise AdapterError("A strength has no meaning here; remove NAME or NAME@STEP.")
    if part.checkpoint is None:
        return folder_path(root, part.name)
    chosen = choose(root, part)
    if chosen.step is None:
        raise AdapterError(f"{part.spelling} is the published weights; remove {part.name} whole.")
    if _is_last(chosen.folder):
        raise AdapterError(f"{part.spelling} is all there is of it; remove {part.name} whole.")
    return chosen.weights


def move_to_trash(root: Path, path: Path, now: datetime) -> Path:
    """Move a folder or a file of the adapters folder into the trash.

    Returns:
        Where it is now: `.trash/NAME-YYYYMMDD-HHMMSS`, with a number behind it if that is taken.
    """
    trash = root / TRASH
    trash.mkdir(exist_ok=True)
    is_adapter = path.parent == root
    name = path.name if is_adapter else f"{path.parent.name}@{int(path.name.split('_')[0])}"
    target = _free(trash / f"{name}-{now:%Y%m%d-%H%M%S}")
    if is_adapter:
        return path.rename(target)
    target.mkdir()
    return path.rename(target / path.name)


def _is_last(folder: AdapterFolder) -> bool:
    return folder.published is None and len(folder.checkpoints) == 1


def _free(target: Path) -> Path:
    candidate, number = target, 1
    while candidate.exists() or candidate.is_symlink():
        number += 1
        candidate = target.with_name(f"{target.name}-{number}")
    return candidate
