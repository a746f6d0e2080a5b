"""Files that clients upload and download. Each has a row in the database and its bytes beside it.

The bytes are on the disk under their id before the row is there, and the row goes before the bytes:
a file is either listed and whole, or not listed. What a kill leaves between the two is removed when
the folder is opened. No name that a client gives ever becomes part of a path.
"""

import asyncio
import hashlib
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from verse.atomic_file import sync_folder
from verse_server.state.database import Database
from verse_server.state.errors import RecordNotFoundError, StorageFullError
from verse_server.state.pages import Order, RecordPage, known_text, select_page

_TABLES = """
CREATE TABLE files (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    filename TEXT NOT NULL,
    purpose TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER
);
CREATE INDEX files_by_purpose ON files (purpose)
"""
_TEMPORARY = "upload-"


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is kept."""

    id: str
    filename: str
    """As its client called it; shown, never opened."""
    purpose: str
    bytes: int
    sha256: str
    created_at: int
    """Unix seconds, as all times here."""
    expires_at: int | None = None


class FileWriter:
    """A file that is being written; it is nobody's until `FileStore.add`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream = path.open("xb")
        self._digest = hashlib.sha256()
        self.num_bytes = 0

    def write(self, data: bytes) -> None:
        """Add bytes; not for an event loop.

        Raises:
            StorageFullError: the disk takes no more.
        """
        try:
            self._stream.write(data)
        except OSError as error:
            raise StorageFullError(error.strerror or str(error)) from error
        self._digest.update(data)
        self.num_bytes += len(data)

    def finish(self) -> str:
        """Bring everything to the disk; returns the SHA-256.

        Raises:
            StorageFullError: the disk takes no more.
        """
        try:
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()
        except OSError as error:
            raise StorageFullError(error.strerror or str(error)) from error
        return self._digest.hexdigest()

    def discard(self) -> None:
        """Leave nothing behind."""
        with suppress(OSError):
            self._stream.close()
        self.path.unlink(missing_ok=True)


class FileStore:
    """All files of one state folder."""

    def __init__(
        self, database: Database, folder: Path, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._folder = folder
        self._clock = clock
        folder.mkdir(exist_ok=True)
        database.define("files", 1, _TABLES)
        self._tidy()

    def now(self) -> int:
        """Unix seconds."""
        return int(self._clock())

    def writer(self) -> FileWriter:
        """Begin a file; whoever does calls `add`, or `FileWriter.discard`.

        Raises:
            StorageFullError: no file can be made.
        """
        try:
            return FileWriter(self._folder / f"{_TEMPORARY}{secrets.token_hex(12)}")
        except OSError as error:
            raise StorageFullError(error.strerror or str(error)) from error

    def add(
        self, writer: FileWriter, *, filename: str, purpose: str, expires_at: int | None = None
    ) -> StoredFile:
        """Keep what was written, under an id of its own; not for an event loop.

        Raises:
            StorageFullError: the disk is full; nothing is kept.
        """
        try:
            file = StoredFile(
                id=f"file-{secrets.token_hex(12)}",
                filename=filename,
                purpose=purpose,
                sha256=writer.finish(),
                bytes=writer.num_bytes,
                created_at=self.now(),
                expires_at=expires_at,
            )
            path = self._folder / file.id
            try:
                writer.path.replace(path)
                sync_folder(self._folder)
            except OSError as error:
                raise StorageFullError(error.strerror or str(error)) from error
            try:
                self._database.run_now(lambda connection: _insert(connection, file))
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        except BaseException:
            writer.discard()
            raise
        return file

    async def write_lines(
        self, lines: Iterable[bytes], *, filename: str, purpose: str, expires_seconds: int | None
    ) -> StoredFile:
        """Make a file of lines, in a thread of its own.

        Raises:
            StorageFullError: the disk is full; nothing is kept.
        """

        def write() -> StoredFile:
            writer = self.writer()
            try:
                for line in lines:
                    writer.write(line)
            except BaseException:
                writer.discard()
                raise
            expires_at = None if expires_seconds is None else self.now() + expires_seconds
            return self.add(writer, filename=filename, purpose=purpose, expires_at=expires_at)

        return await asyncio.to_thread(write)

    async def forget_named(self, filename: str, purpose: str) -> None:
        """Forget files that the server itself has made under a name, for a purpose of its own."""

        def forget(connection: sqlite3.Connection) -> list[str]:
            query = "SELECT id FROM files WHERE filename = ? AND purpose = ?"
            ids = [row["id"] for row in connection.execute(query, (filename, purpose))]
            connection.executemany("DELETE FROM files WHERE id = ?", [(id_,) for id_ in ids])
            return ids

        for id_ in await self._database.run(forget):
            self.path(id_).unlink(missing_ok=True)

    def path(self, id_: str) -> Path:
        """Where the bytes of a file are; the id must come from a `StoredFile`."""
        return self._folder / id_

    async def get(self, id_: str, param: str = "file_id") -> StoredFile:
        """One file.

        Args:
            id_: Whatever a client sent.
            param: What a client would call it, for the error.

        Raises:
            RecordNotFoundError: there is none, or it has expired.
        """
        now = self._clock()

        def find(connection: sqlite3.Connection) -> Any:
            query = "SELECT * FROM files WHERE id = ? AND coalesce(expires_at, ?) >= ?"
            return connection.execute(query, (known_text(id_), now, now)).fetchone()

        if (row := await self._database.run(find)) is None:
            raise RecordNotFoundError("file", id_, param)
        return _file(row)

    async def list(
        self, *, purpose: str | None, after: str | None, limit: int, order: Order
    ) -> RecordPage[StoredFile]:
        """A page of them.

        Args:
            purpose: Only those of this one.
            after: Id of the last one of the page before.
            limit: The most to give.
            order: By time of creation.

        Raises:
            RecordNotFoundError: `after` is no file.
        """
        now = self._clock()
        where = ["coalesce(expires_at, :now) >= :now"]
        if purpose is not None:
            where.append("purpose = :purpose")
        found = await self._database.run(
            lambda connection: select_page(
                connection,
                "files",
                where,
                {"now": now, "purpose": purpose},
                after=after,
                limit=limit,
                order=order,
            )
        )
        return RecordPage(tuple(_file(row) for row in found.items), found.has_more)

    async def delete(self, id_: str) -> None:
        """Forget a file. Whoever reads it at this moment reads it to its end.

        Raises:
            RecordNotFoundError: there is none.
        """

        def forget(connection: sqlite3.Connection) -> int:
            return connection.execute("DELETE FROM files WHERE id = ?", (known_text(id_),)).rowcount

        if not await self._database.run(forget):
            raise RecordNotFoundError("file", id_, "file_id")
        self.path(id_).unlink(missing_ok=True)

    def _tidy(self) -> None:
        """Remove what has expired, and what a kill left without a row."""
        now = self._clock()

        def known(connection: sqlite3.Connection) -> Collection[str]:
            connection.execute("DELETE FROM files WHERE expires_at < ?", (now,))
            return {row["id"] for row in connection.execute("SELECT id FROM files")}

        ids = self._database.run_now(known)
        for path in self._folder.iterdir():
            if path.name not in ids:
                path.unlink(missing_ok=True)


_COLUMNS = msgspec.structs.fields(StoredFile)


def _insert(connection: sqlite3.Connection, file: StoredFile) -> None:
    names = [column.name for column in _COLUMNS]
    marks = ", ".join("?" for _ in names)
    values: Sequence[Any] = msgspec.structs.astuple(file)
    connection.execute(f"INSERT INTO files ({', '.join(names)}) VALUES ({marks})", values)


def _file(row: sqlite3.Row) -> StoredFile:
    return StoredFile(**{column.name: row[column.name] for column in _COLUMNS})
