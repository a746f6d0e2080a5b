"""One process per file: a lock that the system takes back when its holders die."""

import errno
import os
from pathlib import Path

from verse.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_TAKEN = (errno.EACCES, errno.EAGAIN)


class FileLock:
    """Holds a file for this process, and for those it hands `handle` on to."""

    def __init__(self, path: Path, taken: UserError) -> None:
        """Take the lock on a file that exists.

        Args:
            path: The file.
            taken: What to raise if another process holds it.

        Raises:
            UserError: `taken`.
            OSError: the file cannot be opened.
        """
        self.handle = os.open(path, os.O_RDONLY)
        try:
            _lock(self.handle)
        except OSError as error:
            os.close(self.handle)
            if error.errno in _TAKEN:
                raise taken from None
            raise

    def release(self) -> None:
        """Let another process have it."""
        os.close(self.handle)


def _lock(handle: int) -> None:
    if fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
