"""Responses that are kept, so that a conversation can go on from one, after a restart as well.

They have a file of their own, which any server with this state folder may use, also two at a time.
It is opened when the first response is stored or asked for. How much is kept is bounded: the oldest
responses go first. A response has all it answers to beside it, so that it needs no earlier one.
"""

import sqlite3
import threading
from pathlib import Path

import msgspec

from verse_server.state.database import Database
from verse_server.state.errors import RecordNotFoundError, StateFolderError, StorageFullError
from verse_server.state.pages import known_text

FILE_NAME = "responses.sqlite"
MAX_RESPONSES = 10_000
MAX_BYTES = 256 << 20

_TABLES = """
CREATE TABLE responses (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    body BLOB NOT NULL,
    input BLOB NOT NULL,
    bytes INTEGER NOT NULL
);
CREATE TABLE items (
    id TEXT NOT NULL,
    response INTEGER NOT NULL REFERENCES responses ON DELETE CASCADE,
    body BLOB NOT NULL
);
CREATE INDEX items_by_id ON items (id);
CREATE INDEX items_by_response ON items (response)
"""
_OLDEST = "DELETE FROM responses WHERE number = (SELECT min(number) FROM responses)"


class StoredResponse(msgspec.Struct, frozen=True, kw_only=True):
    """One of them, as JSON; what is in it is nothing to this module."""

    id: str
    body: bytes
    input: bytes
    """All that it answers to."""
    items: tuple[tuple[str, bytes], ...] = ()
    """By id: the items that came with it, its answer's included."""

    @property
    def num_bytes(self) -> int:
        """What it takes of what may be kept."""
        return len(self.body) + len(self.input) + sum(len(body) for _, body in self.items)


class ResponseStore:
    """The responses of one state folder."""

    def __init__(
        self, folder: Path, max_responses: int = MAX_RESPONSES, max_bytes: int = MAX_BYTES
    ) -> None:
        self._folder = folder
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._database: Database | None = None

    async def save(self, response: StoredResponse) -> None:
        """Keep a response; it is on the disk when this returns.

        Raises:
            StorageFullError: it cannot be written.
        """

        def insert(connection: sqlite3.Connection) -> None:
            size = response.num_bytes
            values = (response.id, response.body, response.input, size)
            query = "INSERT INTO responses (id, body, input, bytes) VALUES (?, ?, ?, ?)"
            number = connection.execute(query, values).lastrowid
            connection.executemany(
                "INSERT INTO items VALUES (?, ?, ?)",
                [(id_, number, body) for id_, body in response.items],
            )
            self._drop_oldest(connection)

        await self._opened().run(insert)

    async def get(self, id_: str) -> StoredResponse:
        """One response, without its items.

        Raises:
            RecordNotFoundError: there is none.
        """
        query = "SELECT body, input FROM responses WHERE id = ?"
        row = await self._first(query, id_)
        if row is None:
            raise RecordNotFoundError("response", id_, "response_id")
        return StoredResponse(id=id_, body=row["body"], input=row["input"])

    async def item(self, id_: str) -> bytes:
        """The item that came last under an id.

        Raises:
            RecordNotFoundError: there is none.
        """
        row = await self._first(
            "SELECT body FROM items WHERE id = ? ORDER BY response DESC LIMIT 1", id_
        )
        if row is None:
            raise RecordNotFoundError("item", id_, "input")
        return row["body"]

    async def delete(self, id_: str) -> None:
        """Forget a response; those that went on from it stay whole.

        Raises:
            RecordNotFoundError: there is none.
        """

        def forget(connection: sqlite3.Connection) -> int:
            query = "DELETE FROM responses WHERE id = ?"
            return connection.execute(query, (known_text(id_),)).rowcount

        if not self._is_there() or not await self._opened().run(forget):
            raise RecordNotFoundError("response", id_, "response_id")

    def close(self) -> None:
        """Close the file, if it was opened."""
        with self._lock:
            if self._database is not None:
                self._database.close()
            self._database = None

    async def _first(self, query: str, id_: str) -> sqlite3.Row | None:
        if not self._is_there():  # asking makes no file
            return None
        return await self._opened().run(
            lambda connection: connection.execute(query, (known_text(id_),)).fetchone()
        )

    def _is_there(self) -> bool:
        return self._database is not None or (self._folder / FILE_NAME).exists()

    def _opened(self) -> Database:
        with self._lock:
            if self._database is None:
                try:
                    self._folder.mkdir(parents=True, exist_ok=True)
                    database = Database(self._folder / FILE_NAME)
                    database.define("responses", 1, _TABLES)
                except (OSError, StateFolderError) as error:
                    raise StorageFullError(str(error)) from error
                self._database = database
            return self._database

    def _drop_oldest(self, connection: sqlite3.Connection) -> None:
        query = "SELECT count(*), coalesce(sum(bytes), 0) FROM responses"
        while True:
            number, size = connection.execute(query).fetchone()
            if number <= 1 or (number <= self._max_responses and size <= self._max_bytes):
                return
            connection.execute(_OLDEST)
