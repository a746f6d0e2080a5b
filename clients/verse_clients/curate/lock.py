"""One window per journal: a lock that the system takes back when the process dies."""

import errno
import os
from pathlib import Path

from verse_clients.curate.errors import LockedError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_TAKEN = (errno.EACCES, errno.EAGAIN)


class Lock:
    """Holds a file for this process."""

    def __init__(self, path: Path) -> None:
        """Take the lock on a file that exists.

        Raises:
            LockedError: another process holds it.
            OSError: the file cannot be opened.
        """
        self._handle = os.open(path, os.O_RDONLY)
        try:
            _lock(self._handle)
        except OSError as error:
            os.close(self._handle)
            if error.errno in _TAKEN:
                raise LockedError(f"{path} is open in another window; close that first.") from None
            raise

    def release(self) -> None:
        """Let another window have it."""
        os.close(self._handle)


def _lock(handle: int) -> None:
    if fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
