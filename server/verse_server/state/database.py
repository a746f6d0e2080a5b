"""One SQLite file behind a thread of its own, so that no event loop ever waits for the disk.

What a call does is one transaction. It is on the disk when the call returns (`synchronous=FULL`),
so a kill or a power cut at any moment leaves all of a call or nothing. Each store states its tables
and their version itself:

    database.define("files", 1, "CREATE TABLE files (...)")
    row = await database.run(lambda connection: connection.execute(...).fetchone())
"""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from verse_server.state.errors import StateFolderError, StorageFullError

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

_BUSY_SECONDS = 10.0
_UNWRITABLE = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY})
_PRAGMAS = ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", "PRAGMA foreign_keys = ON")
_VERSIONS = "CREATE TABLE IF NOT EXISTS versions (store TEXT PRIMARY KEY, version INTEGER NOT NULL)"


class Database:
    """One file; usable from any thread and any event loop until it is closed."""

    def __init__(self, file: Path) -> None:
        """Open or make it.

        Raises:
            StateFolderError: it cannot be opened, or is no database.
        """
        self._file = file
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="state")
        try:
            self._connection = self._thread.submit(self._open).result()
        except sqlite3.Error as error:
            self._thread.shutdown()
            raise StateFolderError(
                f"{file} cannot be opened ({error}); move it away or choose another --state."
            ) from error

    def define(self, store: str, version: int, statements: str) -> None:
        """Make a store's tables unless they are there.

        Args:
            store: A name of its own in this file.
            version: Of its tables, from 1.
            statements: `CREATE TABLE` and `CREATE INDEX`, separated by semicolons.

        Raises:
            StateFolderError: a newer Verse has made the tables.
        """

        def make(connection: sqlite3.Connection) -> int:
            connection.execute(_VERSIONS)
            query = "SELECT version FROM versions WHERE store = ?"
            if found := connection.execute(query, (store,)).fetchone():
                return found[0]
            for statement in filter(str.strip, statements.split(";")):
                connection.execute(statement)
            connection.execute("INSERT INTO versions VALUES (?, ?)", (store, version))
            return version

        found = self.run_now(make)
        if found > version:
            raise StateFolderError(
                f"{self._file} was written by a newer Verse ({store} has version {found}, this one "
                f"knows {version}); update Verse or choose another --state."
            )

    async def run(self, work: Work[T]) -> T:
        """Run one transaction in the database's thread.

        Raises:
            StorageFullError: nothing can be written.
        """
        return await asyncio.wrap_future(self._submit(work))

    def run_now(self, work: Work[T]) -> T:
        """As `run`, for callers that are on no event loop."""
        return self._submit(work).result()

    def close(self) -> None:
        """Finish what was begun and close the file."""
        self._thread.submit(self._connection.close).result()
        self._thread.shutdown()

    def _submit(self, work: Work[T]) -> Future[T]:
        return self._thread.submit(self._transaction, work)

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._file, _BUSY_SECONDS, isolation_level=None)
        connection.row_factory = sqlite3.Row
        for pragma in _PRAGMAS:
            connection.execute(pragma)
        return connection

    def _transaction(self, work: Work[T]) -> T:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in _UNWRITABLE:
                raise StorageFullError(str(error)) from error
            raise
        return result
