"""Removing without losing: what goes away is moved into `.trash` beside the adapters."""

from datetime import datetime
from pathlib import Path

from verse.adapter_folder import AdapterFolder
from verse.model_spelling import AdapterPart
from verse_trainer.adapters.places import choose, folder_path
from verse_trainer.errors import AdapterError

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
