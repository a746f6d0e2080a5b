"""Writing without losing what is there, and telling a full disk in one sentence."""

from collections.abc import Generator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from verse_trainer.errors import DataSetError


@contextmanager
def writing(path: Path) -> Generator[None]:
    """Turn what the disk refuses into a `DataSetError`; the file is as it was."""
    try:
        yield
    except OSError as error:
        raise DataSetError(f"{path} cannot be written: {error.strerror}.") from error


def set_aside(path: Path) -> Path | None:
    """Rename a file to `NAME.old`, or `NAME.old-2` and so on where that is taken.

    Returns:
        Its new place; None if there was no file.

    Raises:
        OSError: the folder is read-only.
    """
    if not path.exists():
        return None
    names = (f"{path.name}.old" + (f"-{number}" if number > 1 else "") for number in count(1))
    free = next(place for name in names if not (place := path.with_name(name)).exists())
    return path.rename(free)
