"""Batches: many requests of one file, and what has become of each of them.

A result is a row of its own, added in the transaction that counts it, and never twice: whatever
moment a kill comes at, a request has its one result or is asked again. The file of requests is kept
under the batch's own name, so that deleting the upload takes nothing away.
"""

import os
import secrets
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from verse_server.state.database import Database
from verse_server.state.errors import RecordInUseError, RecordNotFoundError, StorageFullError
from verse_server.state.files import FileStore, StoredFile
from verse_server.state.pages import RecordPage, known_text, select_page

BatchStatus = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "cancelling", "cancelled"
]
_OUTPUT = "batch_output"
UNFINISHED: tuple[BatchStatus, ...] = ("validating", "in_progress", "finalizing", "cancelling")

_TABLES = """
CREATE TABLE batches (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    status TEXT NOT NULL,
    asked BLOB NOT NULL,
    times BLOB NOT NULL,
    errors BLOB NOT NULL,
    output_file_id TEXT,
    error_file_id TEXT,
    total INTEGER NOT NULL,
    completed INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL
);
CREATE TABLE batch_results (
    batch INTEGER NOT NULL REFERENCES batches ON DELETE CASCADE,
    line INTEGER NOT NULL,
    is_failed INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (batch, line)
) WITHOUT ROWID
"""
_COUNTED = ("input_tokens", "cached_tokens", "output_tokens")
_RESULTS_AT_ONCE = 200


class AskedBatch(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for."""

    endpoint: str
    input_file_id: str
    metadata: dict[str, str] | None = None
    output_expires_seconds: int | None = None


class LineProblem(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with a batch, or with one line of its file."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None
    """From 1."""


class StoredBatch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch, as far as it has come."""

    number: int
    id: str
    status: BatchStatus
    asked: AskedBatch
    times: dict[str, int]
    """When it became what: `created_at`, `in_progress_at` and so on, in Unix seconds."""
    errors: tuple[LineProblem, ...] = ()
    output_file_id: str | None = None
    error_file_id: str | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0


class RowResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one request has become."""

    line: int
    is_failed: bool
    body: bytes
    """A line of the output or of the error file."""
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0


class BatchStore:
    """All batches of one state folder."""

    def __init__(
        self,
        database: Database,
        files: FileStore,
        folder: Path,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._files = files
        self._folder = folder
        self._clock = clock
        folder.mkdir(exist_ok=True)
        database.define("batches", 1, _TABLES)
        self._tidy()

    async def create(self, asked: AskedBatch, file: StoredFile) -> StoredBatch:
        """Begin a batch; its file is kept for it.

        Raises:
            RecordNotFoundError: the file is gone.
            StorageFullError: the disk is full; there is no batch.
        """
        id_ = f"batch_{secrets.token_hex(12)}"
        try:
            _keep(self._files.path(file.id), self.input_path(id_))
        except FileNotFoundError as error:
            raise RecordNotFoundError("file", file.id, "input_file_id") from error
        except OSError as error:
            raise StorageFullError(error.strerror or str(error)) from error
        values = (id_, "validating", _json(asked), _json({"created_at": self._now()}), b"[]")
        query = (
            "INSERT INTO batches (id, status, asked, times, errors, total, completed, failed, "
            "input_tokens, cached_tokens, output_tokens) VALUES (?, ?, ?, ?, ?, 0, 0, 0, 0, 0, 0)"
        )
        try:
            await self._database.run(lambda connection: connection.execute(query, values))
        except BaseException:
            self.input_path(id_).unlink(missing_ok=True)
            raise
        return await self.get(id_)

    def input_path(self, id_: str) -> Path:
        """Where the requests of a batch are."""
        return self._folder / f"{id_}.jsonl"

    async def get(self, id_: str) -> StoredBatch:
        """One batch.

        Raises:
            RecordNotFoundError: there is none.
        """
        query = "SELECT * FROM batches WHERE id = ?"
        row = await self._database.run(
            lambda connection: connection.execute(query, (known_text(id_),)).fetchone()
        )
        if row is None:
            raise RecordNotFoundError("batch", id_, "batch_id")
        return _batch(row)

    async def list(self, *, after: str | None, limit: int) -> RecordPage[StoredBatch]:
        """A page of them, the newest first.

        Raises:
            RecordNotFoundError: `after` is no batch.
        """
        found = await self._database.run(
            lambda connection: select_page(connection, "batches", [], {}, after=after, limit=limit)
        )
        return RecordPage(tuple(map(_batch, found.items)), found.has_more)

    async def unfinished(self) -> StoredBatch | None:
        """The oldest batch that is not finished."""
        marks = ", ".join("?" for _ in UNFINISHED)
        query = f"SELECT * FROM batches WHERE status IN ({marks}) ORDER BY number LIMIT 1"
        row = await self._database.run(
            lambda connection: connection.execute(query, UNFINISHED).fetchone()
        )
        return None if row is None else _batch(row)

    async def advance(
        self, id_: str, status: BatchStatus, come_from: Sequence[BatchStatus], **fields: Any
    ) -> StoredBatch:
        """Let a batch become something else, and note when.

        Args:
            id_: The batch.
            status: What it becomes.
            come_from: What it must be before.
            fields: Of `StoredBatch`, to be changed as well.

        Raises:
            RecordInUseError: it is something else.
            RecordNotFoundError: there is none.
        """
        changed = {**fields, "status": status}
        if "errors" in changed:
            changed["errors"] = _json(changed["errors"])

        def change(connection: sqlite3.Connection) -> StoredBatch | None:
            query = "SELECT * FROM batches WHERE id = ?"
            row = connection.execute(query, (known_text(id_),)).fetchone()
            if row is None:
                return None
            batch = _batch(row)
            if batch.status not in come_from:
                raise RecordInUseError(f"The batch {batch.id!r} is {batch.status} already.")
            times = batch.times | {f"{status}_at": self._now()}
            columns = ", ".join(f"{name} = :{name}" for name in (*changed, "times"))
            values = {**changed, "times": _json(times), "id": id_}
            connection.execute(f"UPDATE batches SET {columns} WHERE id = :id", values)
            return _batch(connection.execute(query, (id_,)).fetchone())

        if (batch := await self._database.run(change)) is None:
            raise RecordNotFoundError("batch", id_, "batch_id")
        return batch

    async def done(self, number: int) -> set[int]:
        """The lines of a batch that have a result."""
        query = "SELECT line FROM batch_results WHERE batch = ?"
        return await self._database.run(
            lambda connection: {row["line"] for row in connection.execute(query, (number,))}
        )

    async def add(self, number: int, results: Sequence[RowResult]) -> None:
        """Keep results and count them; a line that has one already keeps it.

        Raises:
            StorageFullError: none of them is kept.
        """

        def insert(connection: sqlite3.Connection) -> None:
            query = "INSERT OR IGNORE INTO batch_results VALUES (?, ?, ?, ?)"
            for result in results:
                values = (number, result.line, result.is_failed, result.body)
                if connection.execute(query, values).rowcount:
                    _count(connection, number, result)

        await self._database.run(insert)

    async def publish(
        self, batch: StoredBatch, *, is_failed: bool, filename: str
    ) -> StoredFile | None:
        """Make a file of the results, line by line as they were asked for; None if there are none.

        One that a kill left behind is replaced.

        Raises:
            StorageFullError: the disk is full.
        """
        if not (batch.failed if is_failed else batch.completed):
            return None
        await self._files.forget_named(filename, _OUTPUT)
        expires = batch.asked.output_expires_seconds
        return await self._files.write_lines(
            self._results(batch.number, is_failed=is_failed),
            filename=filename,
            purpose=_OUTPUT,
            expires_seconds=expires,
        )

    async def close(self, batch: StoredBatch, status: BatchStatus, **fields: Any) -> StoredBatch:
        """Let a batch end: its results are in files now, or nowhere.

        Raises:
            RecordInUseError: it has ended.
        """
        closed = await self.advance(batch.id, status, UNFINISHED, **fields)
        query = "DELETE FROM batch_results WHERE batch = ?"
        await self._database.run(lambda connection: connection.execute(query, (batch.number,)))
        self.input_path(batch.id).unlink(missing_ok=True)
        return closed

    def _results(self, number: int, *, is_failed: bool) -> Iterator[bytes]:
        """In order, a few hundred at a time; not for an event loop."""
        query = (
            "SELECT line, body FROM batch_results WHERE batch = ? AND is_failed = ? AND line > ? "
            "ORDER BY line LIMIT ?"
        )
        line = 0
        while True:
            values = (number, is_failed, line, _RESULTS_AT_ONCE)
            rows = self._database.run_now(
                lambda connection, values=values: connection.execute(query, values).fetchall()
            )
            for row in rows:
                yield row["body"] + b"\n"
            if len(rows) < _RESULTS_AT_ONCE:
                return
            line = rows[-1]["line"]

    def _now(self) -> int:
        return int(self._clock())

    def _tidy(self) -> None:
        """Remove what a kill left of batches that have ended, or that never were."""
        marks = ", ".join("?" for _ in UNFINISHED)

        def unfinished(connection: sqlite3.Connection) -> set[str]:
            ended = f"SELECT number FROM batches WHERE status NOT IN ({marks})"
            connection.execute(f"DELETE FROM batch_results WHERE batch IN ({ended})", UNFINISHED)
            query = f"SELECT id FROM batches WHERE status IN ({marks})"
            return {f"{row['id']}.jsonl" for row in connection.execute(query, UNFINISHED)}

        known = self._database.run_now(unfinished)
        for path in self._folder.iterdir():
            if path.name not in known:
                path.unlink(missing_ok=True)


def _keep(upload: Path, path: Path) -> None:
    """A second name of the same bytes; a copy where the disk has no such thing."""
    try:
        os.link(upload, path)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(upload, path)


def _count(connection: sqlite3.Connection, number: int, result: RowResult) -> None:
    column = "failed" if result.is_failed else "completed"
    sums = ", ".join(f"{name} = {name} + :{name}" for name in _COUNTED)
    values = {name: getattr(result, name) for name in _COUNTED} | {"number": number}
    connection.execute(
        f"UPDATE batches SET {column} = {column} + 1, {sums} WHERE number = :number", values
    )


def _batch(row: sqlite3.Row) -> StoredBatch:
    fields: dict[str, Any] = {name: row[name] for name in row.keys()}  # noqa: SIM118  (see sqlite3)
    fields["asked"] = msgspec.json.decode(row["asked"], type=AskedBatch)
    fields["times"] = msgspec.json.decode(row["times"], type=dict[str, int])
    fields["errors"] = msgspec.json.decode(row["errors"], type=tuple[LineProblem, ...])
    return StoredBatch(**fields)


_json = msgspec.json.Encoder().encode
