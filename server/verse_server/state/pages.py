"""Pages of rows as OpenAI's lists have them: `after` an id, at most `limit`, and if more come.

Every table that is listed has an `id` and a `number` that counts up as rows are added. A page
follows the number, so a row that is added or deleted while somebody turns pages moves no other.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

import msgspec

from verse_server.state.errors import RecordNotFoundError

T = TypeVar("T")
Order = Literal["asc", "desc"]


class RecordPage(msgspec.Struct, Generic[T], frozen=True):
    """Some of a list."""

    items: tuple[T, ...]
    has_more: bool


def known_text(id_: str) -> str:
    """An id as a client sent it, or none: ours are ASCII, and SQLite takes no half characters."""
    return id_ if id_.isascii() else ""


def select_page(
    connection: sqlite3.Connection,
    table: str,
    where: Sequence[str],
    values: Mapping[str, Any],
    *,
    after: str | None,
    limit: int,
    order: Order = "desc",
) -> RecordPage[sqlite3.Row]:
    """Read one page.

    Args:
        connection: Inside `Database.run`.
        table: Its name; never a client's word.
        where: Conditions that hold for all rows; nor are these.
        values: What their parameters, such as `:purpose`, stand for.
        after: Id of the last row of the page before.
        limit: The most rows to give.
        order: Newest first, or oldest first.

    Raises:
        RecordNotFoundError: no row has the id `after`.
    """
    conditions = list(where)
    bound = dict(values)
    if after is not None:
        query = f"SELECT number FROM {table} WHERE id = ?"
        if (found := connection.execute(query, (known_text(after),)).fetchone()) is None:
            raise RecordNotFoundError("object to list after,", after, "after")
        conditions.append(f"number {'<' if order == 'desc' else '>'} :number")
        bound["number"] = found["number"]
    filters = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    direction = "DESC" if order == "desc" else "ASC"
    query = f"SELECT * FROM {table} {filters} ORDER BY number {direction} LIMIT :limit"
    rows = connection.execute(query, {**bound, "limit": limit + 1}).fetchall()
    return RecordPage(tuple(rows[:limit]), len(rows) > limit)
