"""What is kept, and what a kill between any two steps leaves of it."""

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from verse_server.state.database import Database
from verse_server.state.errors import (
    RecordNotFoundError,
    StateFolderError,
    StorageFullError,
)
from verse_server.state.files import FileStore, StoredFile
from verse_server.state.folder import ServerState


@pytest.fixture
def state(tmp_path: Path) -> Iterator[ServerState]:
    opened = ServerState(tmp_path / "state")
    yield opened
    opened.close()


def added(files: FileStore, data: bytes = b"{}\n", name: str = "a.jsonl") -> StoredFile:
    writer = files.writer()
    writer.write(data)
    return files.add(writer, filename=name, purpose="fine-tune")


def names(files: FileStore, **query: object) -> list[str]:
    wanted = {"purpose": None, "after": None, "limit": 10, "order": "asc"} | query
    page = asyncio.run(files.list(**wanted))  # pyright: ignore[reportArgumentType]
    return [file.filename for file in page.items]


def test_a_file_is_there_after_the_server_was_killed(tmp_path: Path) -> None:
    state = ServerState(tmp_path)
    file = added(state.files, b"poem")
    state.close()
    again = ServerState(tmp_path)
    assert asyncio.run(again.files.get(file.id)) == file
    assert again.files.path(file.id).read_bytes() == b"poem"
    assert (file.bytes, len(file.sha256)) == (4, 64)
    again.close()


def test_what_a_kill_left_half_written_is_gone_and_never_listed(tmp_path: Path) -> None:
    state = ServerState(tmp_path)
    kept = added(state.files)
    (tmp_path / "files" / "upload-1").write_bytes(b"half")  # killed while it came
    (tmp_path / "files" / "file-without-row").write_bytes(b"whole")  # killed before its row
    state.close()
    again = ServerState(tmp_path)
    assert names(again.files) == ["a.jsonl"]
    assert [path.name for path in (tmp_path / "files").iterdir()] == [kept.id]
    again.close()


def test_two_servers_cannot_have_one_folder(state: ServerState) -> None:
    with pytest.raises(StateFolderError, match=r"Another server uses .* choose another --state\."):
        ServerState(state.folder)


def test_a_folder_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(StateFolderError, match="cannot be written"):
        ServerState(tmp_path / "state")


def test_a_database_that_is_none_is_one_sentence_and_frees_the_folder(tmp_path: Path) -> None:
    (tmp_path / "state.sqlite").write_bytes(b"no database" * 1000)
    for _ in range(2):
        with pytest.raises(StateFolderError, match="move it away or choose another --state"):
            ServerState(tmp_path)


def test_tables_of_a_newer_verse_are_left_alone(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.sqlite")
    database.define("poems", 2, "CREATE TABLE poems (id TEXT)")
    with pytest.raises(StateFolderError, match="written by a newer Verse"):
        database.define("poems", 1, "CREATE TABLE poems (id TEXT)")
    database.close()


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.sqlite")
    database.define("poems", 1, "CREATE TABLE poems (id TEXT)")

    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO poems VALUES ('a')")
        raise KeyError

    with pytest.raises(KeyError):
        database.run_now(fail)
    count = database.run_now(lambda c: c.execute("SELECT count(*) FROM poems").fetchone()[0])
    assert count == 0
    database.close()


def test_every_commit_is_synced_to_the_disk(state: ServerState) -> None:
    def pragmas(connection: sqlite3.Connection) -> tuple[object, object]:
        mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
        return mode, connection.execute("PRAGMA synchronous").fetchone()[0]

    assert state.database.run_now(pragmas) == ("wal", 2)


def test_pages_follow_the_order_of_creation(state: ServerState) -> None:
    files = [added(state.files, name=f"{number}.jsonl") for number in range(5)]
    assert names(state.files, order="desc", limit=2) == ["4.jsonl", "3.jsonl"]
    assert names(state.files, after=files[1].id) == ["2.jsonl", "3.jsonl", "4.jsonl"]
    assert names(state.files, purpose="batch") == []
    page = state.files.list(purpose=None, after=None, limit=5, order="asc")
    assert not asyncio.run(page).has_more
    with pytest.raises(RecordNotFoundError):
        names(state.files, after="file-none")


@pytest.mark.parametrize("id_", ["file-none", "", "诗", "\udc80", "../state.sqlite"])
def test_an_unknown_id_is_not_found(state: ServerState, id_: str) -> None:
    for call in (state.files.get, state.files.delete):
        with pytest.raises(RecordNotFoundError):
            asyncio.run(call(id_))
    assert (state.folder / "state.sqlite").exists()


def test_a_deleted_file_is_gone_from_the_disk(state: ServerState) -> None:
    file = added(state.files)
    asyncio.run(state.files.delete(file.id))
    assert names(state.files) == []
    assert not state.files.path(file.id).exists()


def test_a_file_that_has_expired_is_not_there(tmp_path: Path) -> None:
    now = [1000.0]
    database = Database(tmp_path / "a.sqlite")
    files = FileStore(database, tmp_path / "files", lambda: now[0])
    file = files.add(files.writer(), filename="a", purpose="batch", expires_at=1010)
    assert names(files) == ["a"]
    now[0] = 1011.0
    assert names(files) == []
    with pytest.raises(RecordNotFoundError):
        asyncio.run(files.get(file.id))
    FileStore(database, tmp_path / "files", lambda: now[0])
    assert list((tmp_path / "files").iterdir()) == []
    database.close()


def test_a_full_disk_keeps_nothing_of_a_file(
    state: ServerState, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    writer = state.files.writer()
    writer.write(b"poem")
    monkeypatch.setattr("verse_server.state.files.os.fsync", full)
    with pytest.raises(StorageFullError, match=r"No space left on device.*nothing of it was kept"):
        state.files.add(writer, filename="a", purpose="batch")
    assert list((state.folder / "files").iterdir()) == []
    assert names(state.files) == []


def test_a_row_that_cannot_be_written_takes_its_file_along(state: ServerState) -> None:
    # As SQLite says it when the disk is full.
    state.database.run_now(lambda c: c.execute("PRAGMA max_page_count = 1"))
    filler = "x" * 100_000
    writer = state.files.writer()
    with pytest.raises(StorageFullError, match="full"):
        state.files.add(writer, filename=filler, purpose="batch")
    assert list((state.folder / "files").iterdir()) == []
