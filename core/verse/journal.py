"""Files that are only ever added to while a program is open: poems, judgments, decisions.

A `Journal` is the only writer of its file. What it was given is on the disk when `write` returns,
or else in memory, with `problem` saying why; the next `write` or `retry` brings it there, in order.
It knows all its entries, so a file that somebody removes or replaces meanwhile is written again,
and `recovered` says so.

    open     lock, read, put a last line that was cut off into NAME.torn
    write    see that the file is still ours, append, fsync, see again
    close    the same a last time, then let go

`AsyncJournal` is the same for many tasks at once: what they add while the disk is busy goes there
together, with one fsync, and each waits for its own entry alone.

The lock is a file beside, NAME.lock: on Windows a locked file could not be read by others. It is
removed on closing. One that a killed process left behind is empty, locks nothing, and is reused.
"""

import asyncio
import os
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Generic, TypeVar

import msgspec
from filelock import lock_descriptor

from verse import UserError, jsonl
from verse.atomic_file import sync_folder
from verse.terminal import counted

T = TypeVar("T", bound=msgspec.Struct)

_LOCK_MODE = 0o666


def read_entries(path: Path, decoder: msgspec.json.Decoder[T]) -> list[T]:
    """Read a journal without touching it; a last line that was cut off is passed over.

    Raises:
        JsonlError: a line is no such entry.
        OSError: the file cannot be read.
    """
    entries: list[T] = []
    for _, entry in jsonl.scan(path, decoder):
        if isinstance(entry, jsonl.TornLineError):
            break
        if isinstance(entry, jsonl.JsonlError):
            raise entry
        entries.append(entry)
    return entries


class Journal(Generic[T]):
    """An open file of entries; this process is the only one that writes it."""

    def __init__(self, path: Path, decoder: msgspec.json.Decoder[T], in_use: UserError) -> None:
        """Open a file, or begin it. What the disk refuses is in `problem`, and tried again later.

        Args:
            path: The file.
            decoder: Of an entry.
            in_use: What to raise if another process has it open.

        Raises:
            UserError: `in_use`.
            JsonlError: the file holds something else; it was left as it is.
            OSError: the file is there and cannot be read.
        """
        self.path = path
        """Another one than at first if that was replaced by somebody."""
        self.entries: list[T] = []
        """All that are in the file, in order: those found there, and those written since."""
        self.torn: Path | None = None
        """Where a last line that was cut off was moved to."""
        self.problem: str | None = None
        """Why `num_waiting` entries are not on the disk."""
        self.recovered: str | None = None
        """What happened to the file meanwhile, and where its entries are now, in one sentence."""
        self._decoder = decoder
        self._in_use = in_use
        self._waiting: list[T] = []
        self._lock = _Lock(path)
        self._stream: FileIO | None = None
        self._size = 0
        try:
            self._begin()
        except OSError as error:
            self.problem = _reason(error)
            if path.is_file():
                self.entries = read_entries(path, decoder)

    @property
    def num_waiting(self) -> int:
        """Entries that are in memory only."""
        return len(self._waiting)

    def write(self, *entries: T) -> bool:
        """Bring entries, and those still waiting, to the disk.

        Returns:
            Whether all of them are there; `problem` says why not.
        """
        self._waiting.extend(entries)
        return self.retry()

    def retry(self) -> bool:
        """Try again to bring what waits to the disk; also sees whether the file is still there."""
        return self._bring(is_last=False)

    def close(self) -> bool:
        """Try a last time, then let the file go.

        A folder that was away until now is made again, if it held anything.

        Returns:
            Whether everything is on the disk.
        """
        is_there = self._bring(is_last=True)
        self._let_go()
        return is_there

    def __del__(self) -> None:
        self._let_go()

    def _let_go(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        self._lock.release()

    def _bring(self, *, is_last: bool) -> bool:
        try:
            if self._stream is None:
                self._begin_late()
            else:
                self._see_that_it_is_ours(is_last=is_last)
            if self._waiting:
                self._append()
                self._see_that_it_is_ours(is_last=is_last)
        except (OSError, UserError) as error:
            self.problem = _reason(error)
        else:
            self.problem = None
        return self.problem is None

    def _begin(self) -> None:
        """Take the lock, open the file, read it, put a torn line aside."""
        stream: FileIO | None = None
        try:
            if not self._lock.take():
                raise self._in_use
            is_new = not self.path.exists()
            stream = self.path.open("ab+", buffering=0)
            if is_new:
                sync_folder(self.path.resolve().parent)
            self.entries = read_entries(self.path, self._decoder)
            self.torn = jsonl.set_torn_line_aside(self.path)
        except BaseException:
            if stream is not None:
                stream.close()
            self._lock.release()
            raise
        self._hold(stream)

    def _begin_late(self) -> None:
        """Begin what could not be begun at once; by now another may have begun the file."""
        known = self.entries
        self._begin()
        if self.entries != known:
            self.entries = known
            self._recover("written by another program")

    def _append(self) -> None:
        assert self._stream is not None
        if self.problem is not None:
            # The disk may have kept half of what it refused.
            self.torn = jsonl.set_torn_line_aside(self.path) or self.torn
        try:
            jsonl.append_to(self._stream, self.path, *self._waiting)
        finally:
            self._size = os.fstat(self._stream.fileno()).st_size
        self._keep_waiting()

    def _keep_waiting(self) -> None:
        """What waits is on the disk now."""
        self.entries.extend(self._waiting)
        self._waiting.clear()

    def _see_that_it_is_ours(self, *, is_last: bool) -> None:
        """Notice what others did to the file, and write it again if there is need.

        Raises:
            OSError: the folder is away, or the disk refuses.
        """
        happened = self._what_happened(is_last=is_last)
        if not self._lock.is_held():
            if not self._lock.take():
                happened = "opened by another program"
            elif happened is None and self.path.stat().st_size != self._size:
                happened = "written by another program"
        if happened is not None:
            self._recover(happened)

    def _what_happened(self, *, is_last: bool) -> str | None:
        """What others did to the file; None if it is as we left it."""
        assert self._stream is not None
        try:
            found = self.path.stat()
        except FileNotFoundError:
            if is_last and (self.entries or self._waiting):
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.parent.stat()  # a whole folder that is away may come back
            return "removed"
        if not os.path.samestat(found, os.fstat(self._stream.fileno())):
            return "replaced by another file"
        return "cut short by another program" if found.st_size < self._size else None

    def _recover(self, happened: str) -> None:
        """Write all entries to a new file: in the old one's place if that is free, else beside."""
        is_free = self._lock.is_held() and not os.path.lexists(self.path)
        path = self.path if is_free else _unused_name(self.path)
        lock = self._lock if is_free else _Lock(path)
        if not (lock is self._lock or lock.take()):
            raise self._in_use
        entries = [*self.entries, *self._waiting]
        stream = path.open("xb+", buffering=0)
        try:
            jsonl.append_to(stream, path, *entries)
            sync_folder(path.resolve().parent)
        except BaseException:
            stream.close()
            with suppress(OSError):
                path.unlink()
            if lock is not self._lock:
                lock.release()
            raise
        lines = counted(len(entries), "line")
        where = (
            f"it was written again, with {lines}"
            if is_free
            else f"{path} has what it held, {lines}"
        )
        self.recovered = f"{self.path} was {happened} while it was in use; {where}."
        if lock is not self._lock:
            self._lock.release()
        self.path, self._lock = path, lock
        self._hold(stream)
        self._keep_waiting()

    def _hold(self, stream: FileIO) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream = stream
        self._size = os.fstat(stream.fileno()).st_size


class AsyncJournal(Journal[T]):
    """A journal that the tasks of one event loop add to; nothing waits for the disk but they."""

    def __init__(self, path: Path, decoder: msgspec.json.Decoder[T], in_use: UserError) -> None:
        """Open a file, or begin it; see `Journal`."""
        super().__init__(path, decoder, in_use)
        self._gathered: list[T] = []
        self._gathering: asyncio.Task[bool] | None = None
        self._disk = asyncio.Lock()

    async def add(self, entry: T) -> bool:
        """Bring an entry to the disk, with all that are added before the disk is free.

        Being cancelled takes nothing back: `finish` waits for it.

        Returns:
            Whether it is there; `problem` says why not.
        """
        self._gathered.append(entry)
        if self._gathering is None:
            self._gathering = asyncio.create_task(self._write_gathered())
        return await asyncio.shield(self._gathering)

    async def finish(self) -> bool:
        """Wait for what was added, and close.

        Returns:
            Whether everything is on the disk.
        """
        if self._gathering is not None:
            await self._gathering
        async with self._disk:
            return await asyncio.to_thread(self.close)

    async def _write_gathered(self) -> bool:
        async with self._disk:
            entries, self._gathered, self._gathering = self._gathered, [], None
            return await asyncio.to_thread(self.write, *entries)


class _Lock:
    """A file that stands for another one: whoever has locked it may write that."""

    def __init__(self, path: Path) -> None:
        self._beside = path
        self._path = path
        self._handle: int | None = None

    def take(self) -> bool:
        """Lock it, at once or not at all; says whether it is ours now.

        Raises:
            OSError: the folder is missing or read-only.
        """
        self.release()
        target = self._beside.resolve()
        self._path = target.with_name(target.name + ".lock")
        while True:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT, _LOCK_MODE)
            try:
                is_ours = lock_descriptor(handle, blocking=False)
            except BaseException:
                os.close(handle)
                raise
            self._handle = handle
            if is_ours and self.is_held():
                return True
            os.close(handle)
            self._handle = None
            if not is_ours:
                return False
            # Its holder removed it after we had opened it: there may be a new one by now.

    def is_held(self) -> bool:
        """Whether the file that we locked is still the one that others would lock."""
        if self._handle is None:
            return False
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._handle))
        except OSError:
            return False

    def release(self) -> None:
        """Let others have it; does nothing if it is not ours."""
        if self._handle is None:
            return
        if self.is_held() and os.name == "posix":  # Windows does not remove an open file
            with suppress(OSError):
                self._path.unlink()
        os.close(self._handle)
        self._handle = None


def _unused_name(path: Path) -> Path:
    """`poems.recovered.jsonl`, or with a number if that is taken."""
    name, number = f"{path.stem}.recovered", 1
    while os.path.lexists(found := path.with_name(name + path.suffix)):
        number += 1
        name = f"{path.stem}.recovered-{number}"
    return found


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
