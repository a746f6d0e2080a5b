"""Writing a folder whole: it appears under its name when all of it is there and checked, or not."""

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from verse.atomic_file import sync_folder
from verse_trainer.errors import ConversionError


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
        raise ConversionError(f"{target} is there already; name another place or remove it first.")


def _move(stage: Path, target: Path) -> None:
    for file in stage.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    refuse_existing(target)
    stage.rename(target)
    sync_folder(target.parent)
