"""The adapters folder: what a user typed becomes a folder and a file here and nowhere else.

A name is a name, never a path: what the server would not serve under it is not opened here either.
What is removed is moved into `.trash` beside the adapters.
"""

from datetime import datetime
from difflib import get_close_matches
from pathlib import Path

import msgspec

from verse.adapter_config import MlxConfig
from verse.adapter_folder import AdapterFolder, AdapterFolderError, read_adapter_folder
from verse.model_spelling import (
    AdapterPart,
    ModelSpellingError,
    name_problem,
    parse_model,
)
from verse_trainer.errors import AdapterError

TRASH = ".trash"
"""A dot in front: no name of an adapter, so nothing serves or lists it."""


class AdapterEntry(msgspec.Struct, frozen=True):
    """A folder in the adapters folder, and why there is no adapter to be had from it."""

    name: str
    path: Path
    folder: AdapterFolder | None
    problem: str | None = None


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """One file of weights, as `NAME@STEP:STRENGTH` names it."""

    part: AdapterPart
    folder: AdapterFolder
    weights: Path
    step: int | None
    """None for the published weights."""


def check_name(name: str) -> str:
    """The name, if a folder may be called so.

    Raises:
        AdapterError: it may not.
    """
    if problem := name_problem(name):
        raise AdapterError(problem)
    return name


def parse_one(spelling: str) -> AdapterPart:
    """The one adapter that a spelling names.

    Raises:
        AdapterError: it is no spelling, or one of a blend.
    """
    try:
        part, *others = parse_model(spelling)
    except ModelSpellingError as error:
        raise AdapterError(str(error)) from None
    if others:
        raise AdapterError(f"{spelling!r} is a blend; this works on one adapter at a time.")
    check_name(part.name)
    return part


def entries(root: Path) -> list[AdapterEntry]:
    """Every folder that is, or should have been, an adapter; by name.

    Raises:
        AdapterError: there is no adapters folder.
    """
    if not root.is_dir():
        raise AdapterError(f"There is no adapters folder {root}; name one with --adapters.")
    folders = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    return [_look(path) for path in folders if path.is_dir() or path.is_symlink()]


def folder_path(root: Path, name: str) -> Path:
    """The path of a folder there is, sound or broken.

    Raises:
        AdapterError: there is none of this name.
    """
    path = root / check_name(name)
    if path.is_symlink() or path.is_dir():
        return path
    nearest = get_close_matches(name, [entry.name for entry in entries(root)], n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise AdapterError(f"There is no adapter {name!r} in {root}.{hint}")


def find(root: Path, name: str) -> AdapterFolder:
    """The adapter of this name.

    Raises:
        AdapterError: there is none, or it is broken.
    """
    entry = _look(folder_path(root, name))
    if entry.folder is None:
        raise AdapterError(f"The adapter {name!r} cannot be used: {entry.problem}")
    return entry.folder


def choose(root: Path, part: AdapterPart) -> Chosen:
    """The weights that a spelling means, by the server's rules.

    Raises:
        AdapterError: there is no such adapter or checkpoint.
    """
    folder = find(root, part.name)
    step = _step(folder, part)
    weights = folder.weights(step)
    if weights is None:
        steps = ", ".join(f"{folder.name}@{step}" for step in folder.checkpoints)
        wanted = "published weights" if step is None else f"checkpoint {step}"
        there = f"; there is {steps}" if steps else ""
        raise AdapterError(f"The adapter {folder.name!r} has no {wanted}{there}.")
    return Chosen(part=part, folder=folder, weights=weights, step=step)


def _step(folder: AdapterFolder, part: AdapterPart) -> int | None:
    if part.checkpoint == "last":
        return folder.last_step
    if part.checkpoint != "best":
        return part.checkpoint
    best = folder.config.best_step if isinstance(folder.config, MlxConfig) else None
    if best is None:
        raise AdapterError(f"The adapter {folder.name!r} records no best step.")
    # The published weights are the best ones; the numbered file may have been cleaned away.
    return best if best in folder.checkpoints else None


def _look(path: Path) -> AdapterEntry:
    try:
        return AdapterEntry(path.name, path, _read(path))
    except (AdapterError, AdapterFolderError) as error:
        return AdapterEntry(path.name, path, None, str(error))
    except OSError as error:
        return AdapterEntry(path.name, path, None, f"it cannot be read ({error.strerror}).")


def _read(path: Path) -> AdapterFolder:
    check_name(path.name)
    if path.is_symlink():
        raise AdapterError("it is a link, which the server does not follow; copy the folder.")
    return read_adapter_folder(path)


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
