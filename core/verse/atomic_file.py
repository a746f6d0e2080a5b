"""Writing that survives a kill: a reader sees the old file or the new one, never a half."""

import os
import tempfile
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_NEW_FILE_MODE = 0o666


def replace_file(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a whole file under another name and move it into place.

    A link is followed, and an existing file keeps its permissions. If anything fails, also while
    the chunks are made, the old file stays as it was.

    Raises:
        OSError: the folder is missing or read-only, or the disk is full.
    """
    with replacing(path) as stream:
        stream.writelines(chunks)


@contextmanager
def replacing(path: Path) -> Generator[BinaryIO]:
    """`replace_file` for writers that want a stream; it is moved into place when the block ends.

    Raises:
        OSError: the folder is missing or read-only, or the disk is full.
    """
    target = path.resolve()
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    stream = os.fdopen(handle, "wb")
    try:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())
        stream.close()
        Path(temporary).chmod(_mode_for(target))
        Path(temporary).replace(target)
    except BaseException:
        with suppress(OSError):  # a full disk takes no last bytes, and must not hide the cause
            stream.close()
        with suppress(OSError):
            Path(temporary).unlink()
        raise
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make a name that was just created or replaced survive a power cut."""
    if os.name != "posix":  # Windows cannot open a folder
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _mode_for(target: Path) -> int:
    """`mkstemp` makes files for their owner alone; ours are ordinary ones."""
    with suppress(FileNotFoundError):
        return target.stat().st_mode & 0o7777
    umask = os.umask(0)
    os.umask(umask)
    return _NEW_FILE_MODE & ~umask
