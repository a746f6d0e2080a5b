"""The state folder: who has it, and where in it things are.

lock                who has the folder; two servers cannot
state.sqlite        files, jobs, events and batches; `state.sqlite-wal` beside it belongs to it
files/file-...      what was uploaded or written for download, under its id
batches/batch_....jsonl   the requests of a batch that is not finished
jobs/ftjob-.../     the rows and notes of one training
"""

from pathlib import Path

from filelock import FileLock, Timeout

from verse_server.state.batches import BatchStore
from verse_server.state.database import Database
from verse_server.state.errors import StateFolderError
from verse_server.state.files import FileStore
from verse_server.state.jobs import JobStore


class ServerState:
    """All that a server keeps in its state folder, which is its own until it is closed."""

    def __init__(self, folder: Path) -> None:
        """Open the folder, and make it if need be. What an interrupted server left is put in order.

        Raises:
            StateFolderError: it cannot be written, or another server has it.
        """
        self.folder = folder
        self._lock = _locked(folder)
        try:
            self.database = Database(folder / "state.sqlite")
            self.files = FileStore(self.database, folder / "files")
            self.batches = BatchStore(self.database, self.files, folder / "batches")
            self.jobs = JobStore(self.database)
        except BaseException:
            self._lock.release()
            raise

    def close(self) -> None:
        """Close the database and leave the folder to others."""
        self.database.close()
        self._lock.release()


def _locked(folder: Path) -> FileLock:
    lock = FileLock(folder / "lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise StateFolderError(
            f"Another server uses the state folder {folder}; stop it or choose another --state."
        ) from error
    except OSError as error:
        raise StateFolderError(
            f"The state folder {folder} cannot be written ({error.strerror}); choose another "
            "--state."
        ) from error
    return lock
